"""adam: a network's update in one pass: check, weights, moments, averages and copies."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgan.ops.core import dispatch


def serves(
    parameters: Sequence[Tensor], copies: Sequence[Tensor | None], *rest: Sequence[Tensor | None]
) -> bool:
    """Whether `adam_` takes tensors, of which each list has one of each parameter, or None.

    Those of ``rest`` are like the parameters, or single values. It runs on GPUs, where Triton is;
    on CPUs the step of `torch.optim` is as fast.
    """
    if not parameters or not sum(map(Tensor.numel, parameters)):
        return False
    device, backend = parameters[0].device, dispatch.setting()
    asked = backend == "triton" or (backend == "auto" and device.type == "cuda")
    if not asked or dispatch.why_not("triton", device.type, torch.float32) is not None:
        return False
    if (
        len(parameters) > _kernels().MAX_TENSORS
        or len({c.dtype for c in copies if c is not None}) > 1
    ):
        return False
    return all(
        _is_dense(p)
        and all(t is None or t.dtype is torch.float32 for t in (p, *others))
        and all(t is None or _lies_like(t, p) for t in (p, copy, *others))
        for p, copy, *others in zip(parameters, copies, *rest, strict=True)
    ) and dispatch.is_eager(*parameters)


def adam_(*arguments: Any) -> None:
    """`reference.adam_` by Triton's kernels, of what they serve: two launches."""
    _kernels().adam_(*arguments)


def _is_dense(p: Tensor) -> bool:
    """Whether p fills its memory, without gaps and in whatever order."""
    extent = 1
    for stride, size in sorted(zip(p.stride(), p.shape, strict=True)):
        if size > 1 and stride != extent:
            return False
        extent *= size
    return True


def _strides(t: Tensor) -> list[int]:
    """Of the dimensions along which there is more than one value: those of others say nothing."""
    return [stride for stride, size in zip(t.stride(), t.shape, strict=True) if size > 1]


def _lies_like(t: Tensor, p: Tensor) -> bool:
    """Whether t may be walked along with p: in the order of p's memory, 16 bytes at a time."""
    same = t.numel() == 1 or (t.shape == p.shape and _strides(t) == _strides(p))
    return same and t.device == p.device and t.data_ptr() % 16 == 0


def _kernels() -> Any:
    return importlib.import_module("fastgan.kernels.adam")
