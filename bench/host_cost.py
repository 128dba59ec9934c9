"""What the host takes for a fused call of Triton's kernels, with the launch taken out.

    python -m bench.host_cost

No GPU is needed: the launchers run as on one with TMA, on small tensors of the CPU, and what would
hand a kernel to the driver does nothing: Triton's door, and the compiled kernel that comes of it,
which later launches of a kind call. Of many rounds the least processor time of the thread counts,
so that a busy machine says little wrong. Not in it: Triton's own launch, and what a GPU's allocator
takes beyond the CPU's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from fastgan.nn import BatchNormAct2d, FusedSequential
from fastgan.ops import backend, convolution_form
from fastgan.ops.core import dispatch

SECONDS, CALLS, BLOCKS = 10.0, 20, 4
GOAL = 40.0  # microseconds


@contextmanager
def no_launches() -> Iterator[list[str]]:
    """Triton's launchers do everything but launch; gives the kernels that would have been."""
    from triton.compiler import CompiledKernel
    from triton.runtime.jit import JITFunction

    from fastgan.kernels.core.launch import Launch

    launched: list[str] = []
    touched: list[Launch] = []
    by_triton = Launch.by_triton

    class Compiled(CompiledKernel):  # type: ignore[misc]
        def __init__(self, name: str) -> None:
            self.launched = name

        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            return lambda *_: launched.append(self.launched)

    def run(kernel: JITFunction[Any], *_: Any, **__: Any) -> Compiled:
        launched.append(kernel.__name__)
        return Compiled(kernel.__name__)

    def noting(launch: Launch, *given: Any) -> None:
        touched.append(launch)
        by_triton(launch, *given)

    def yes(*_: Any) -> bool:  # a mock's own answer would take longer than what is measured
        return True

    with (
        mock.patch.object(JITFunction, "run", run),
        mock.patch("fastgan.kernels.core.launch._RUN", run),
        mock.patch.object(Launch, "by_triton", noting),
        mock.patch.object(dispatch, "_interpreting", yes),
        mock.patch("fastgan.kernels.conv_block.tma.plan.has_tma", yes),
        backend("triton"),
        convolution_form("fused"),
    ):
        yield launched
    for launch in touched:  # or they would go on doing nothing
        launch.compiled.clear()


def images() -> Tensor:
    x = torch.zeros(2, 16, 8, 8, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    return x.requires_grad_()


def chain(blocks: int) -> nn.Sequential:
    """A convolution, and blocks of norm, activation and convolution."""
    layers: list[nn.Module] = [nn.Conv2d(16, 16, 3, 1, 1, bias=False)]
    for _ in range(blocks):
        layers += [
            nn.BatchNorm2d(16), nn.LeakyReLU(0.2), nn.Conv2d(16, 16, 3, 1, 1, bias=False),
        ]  # fmt: skip
    fused = FusedSequential(*layers).to(memory_format=torch.channels_last)
    for module in fused:
        if isinstance(module, nn.Conv2d):
            module.to(torch.bfloat16)
    return fused


def least(modules: list[nn.Module]) -> list[tuple[float, float]]:
    """Microseconds of the thread for a call of each, and for its backward, in turns."""
    x = images()
    dy = torch.zeros_like(x)
    found = [(inf, inf)] * len(modules)
    until = time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        for i, module in enumerate(modules):
            for _ in range(CALLS):
                begun = time.thread_time_ns()
                y = module(x)
                called = time.thread_time_ns()
                y.backward(dy)
                ended = time.thread_time_ns()
                forward, backward = found[i]
                found[i] = min(forward, called - begun), min(backward, ended - called)
    return [(forward / 1e3, backward / 1e3) for forward, backward in found]


def measured() -> dict[str, tuple[float, ...]]:
    """Of the fused ops: a block amid others is what a longer chain takes more."""
    with no_launches():
        short, long, norm = least([chain(1), chain(1 + BLOCKS), BatchNormAct2d(16)])
    block = ((b - a) / BLOCKS for a, b in zip(short, long, strict=True))
    return {
        "norm, activation and convolution, amid such": tuple(block),
        "norm and activation": norm,
    }


def main() -> None:
    torch.set_num_threads(1)
    print(f"microseconds of the host without the launch; goal {GOAL:.0f}")
    for name, (forward, backward) in measured().items():
        print(f"{name:<45} forward {forward:6.1f}   backward {backward:6.1f}")


if __name__ == "__main__":
    main()
