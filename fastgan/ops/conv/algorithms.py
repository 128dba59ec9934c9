"""The table of convolution algorithms, and which one runs a pass.

The choice depends on the problem alone, never on a timing, so that two runs of a program round
alike. What runs, what `explain` shows and what `fuse` expects are answers of `select`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from torch import Tensor

from fastgan.ops.conv import (
    aten,
    bf16,
    im2col,
    product,
    small_channels,
    small_channels_triton,
    tma,
    winograd,
)
from fastgan.ops.conv.problem import FORWARD, PASSES, Problem
from fastgan.ops.conv.run import Epilogue
from fastgan.ops.core import dispatch


class Algorithm(Protocol):
    """A module that can run passes.

    Attributes:
        TIME: a training pass' as a share of ATen's for contiguous tensors, where it beats eager.
    """

    TIME: float

    def name(self, p: Problem, /) -> str:
        """In the field's words."""

    def supports(self, p: Problem, /) -> bool:
        """Whether it can run the pass."""

    def prefers(self, p: Problem, /) -> bool:
        """Whether it is faster than what stands below in the table, if it supports the pass."""

    def beats_eager(self, p: Problem, grad_x: bool, /) -> bool:
        """Whether a training pass around a preferred forward pass beats torch.nn's layers, the time
        of the calls included. grad_x: the gradient of x is asked for."""

    def run(self, p: Problem, a: Tensor, b: Tensor, epilogue: Epilogue, /) -> Tensor:
        """`act(conv(x) + bias)` of (x, weight), the data gradient of (dy, weight), or the weight
        gradient of (x, dy)."""


# In this order: the first that supports and prefers a pass runs it.
ALGORITHMS: dict[str, Algorithm] = {
    "small_channels_triton": small_channels_triton,
    "product": product,
    "tma": tma,
    "small_channels": small_channels,
    "winograd": winograd,
    "bf16": bf16,
    "im2col": im2col,
    "aten": aten,
}
_MIN_OPERATIONS = 1 << 22  # of a forward pass, below which calls cost more than kernels save

_forced: dict[str, bool] = {}


@contextmanager
def force(**runs: bool) -> Iterator[None]:
    """Has algorithms run every pass that they support (`winograd=True`) or none (False)."""
    global _forced
    if unknown := runs.keys() - ALGORITHMS.keys():
        raise ValueError(f"{min(unknown)}: expected one of {', '.join(ALGORITHMS)}")
    previous, _forced = _forced, {**_forced, **runs}
    try:
        yield
    finally:
        _forced = previous


def select(p: Problem) -> Algorithm:
    """What runs a pass."""
    for key, algorithm in ALGORITHMS.items():
        forced = _forced.get(key)
        if forced is not False and algorithm.supports(p) and (forced or algorithm.prefers(p)):
            return algorithm
    raise RuntimeError(f"no convolution algorithm may run {p}")


def is_triton(p: Problem) -> bool:
    """Whether Triton's kernels, asked for, would run a pass."""
    return select(p._replace(triton=True)) is not select(p._replace(triton=False))


def select_packed(p: Problem) -> Algorithm | None:
    """What runs a forward pass for inference, whose weight is packed once (`packed.py`); None for
    oneDNN. By measurement on a CPU with AVX2."""
    if small_channels.supports(p) and small_channels.prefers_packed(p):
        return small_channels
    if winograd.supports(p) and winograd.prefers(p):
        return winograd
    return im2col if im2col.supports(p) and im2col.prefers_packed(p) else None


def beats_eager(p: Problem, grad_x: bool) -> bool:
    """Whether a training pass is faster here than by ATen's convolution under its own autograd, the
    time of the calls included; by measurement on a CPU with AVX-512. p: its forward pass."""
    if p.operations < _MIN_OPERATIONS or dispatch.in_torch(dispatch.setting(), p.device):
        return False
    return select(p).beats_eager(p, grad_x)


class Kernels(NamedTuple):
    """What runs each pass of a convolution, in words."""

    forward: str
    data_gradient: str
    weight_gradient: str

    def __str__(self) -> str:
        """In one word, where one kernel runs all three."""
        if len(set(self)) == 1:
            return self.forward
        words = zip(("", "data gradient: ", "weight gradient: "), self, strict=True)
        return "; ".join(of + kernel for of, kernel in words)


def kernels_of(p: Problem) -> Kernels:
    """What runs the passes of a convolution. p: any of them."""
    passes = [p._replace(of=of, activated=p.activated and of == FORWARD) for of in PASSES]
    return Kernels(*(select(q).name(q) for q in passes))
