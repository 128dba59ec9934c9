"""norm_act on the CPU: forward + backward against eager PyTorch and torch.compile.

The shapes are DCGAN-64's activations at a batch of 64. Every case times the candidates in turn
within one run (see paired.py), and with them a copy of the tensor. The floor is the time that the
bytes take at the speed of that copy: three passes forward (x twice, z) and five backward (x and dz
twice, dx), where a copy makes two. Where a second pass finds the tensor in the cache, or the copy
is kept from it, the share of the floor can pass 1.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import pytest
import torch
from paired import Times, geometric_mean, interleave, ratio
from torch import Tensor, nn

from fastgan.nn import BatchNormAct2d
from fastgan.ops import backend

SHAPES = [(64, 512, 4, 4), (64, 256, 8, 8), (64, 128, 16, 16), (64, 64, 32, 32)]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ROUNDS = 40
COPIES = 4  # as many copies make the passes of forward and backward

results: dict[tuple[str, str, tuple[int, ...]], dict[str, float]] = {}


def step(module: nn.Module, x: Tensor, dz: Tensor) -> Callable[[], object]:
    inputs = (x, *module.parameters())
    return lambda: torch.autograd.grad(module(x), inputs, dz)


def candidates(layout: str, dtype: str, shape: tuple[int, ...]) -> dict[str, Callable[[], object]]:
    def data() -> Tensor:
        return torch.randn(shape).to(DTYPES[dtype]).contiguous(memory_format=LAYOUTS[layout])

    torch._dynamo.reset()
    x, dz, copied, channels = data().requires_grad_(), data(), data(), shape[1]
    eager = nn.Sequential(nn.BatchNorm2d(channels), nn.LeakyReLU(0.2, inplace=True))
    plain = nn.Sequential(nn.BatchNorm2d(channels), nn.LeakyReLU(0.2))
    return {
        "fused": step(BatchNormAct2d(channels, negative_slope=0.2), x, dz),
        "eager": step(eager, x, dz),
        "compiled": step(torch.compile(plain, dynamic=False), x, dz),
        "copy": lambda: copied.copy_(x.detach()),
    }


def x_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel() * DTYPES[dtype].itemsize


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_forward_and_backward(
    benchmark: Callable[..., object], layout: str, dtype: str, shape: tuple[int, ...]
) -> None:
    with backend("cpu"):
        runs = candidates(layout, dtype, shape)
        times: Times = interleave(runs, ROUNDS)
        benchmark.pedantic(runs["fused"], rounds=10, warmup_rounds=2)
    row = {
        "eager": ratio(times, "eager", "fused"),
        "compiled": ratio(times, "compiled", "fused"),
        "share": COPIES * ratio(times, "copy", "fused"),
        "milliseconds": median(times["fused"]) * 1e3,
        "floor": COPIES * median(times["copy"]) * 1e3,
        "copy GB/s": 2 * x_bytes(dtype, shape) / median(times["copy"]) / 1e9,
    }
    results[layout, dtype, shape] = row
    benchmark.extra_info.update(row)
    print(
        f"\n{layout} {dtype} {shape}: {row['milliseconds']:.2f} ms, {row['eager']:.2f}x eager, "
        f"{row['compiled']:.2f}x compiled; floor {row['floor']:.2f} ms at "
        f"{row['copy GB/s']:.0f} GB/s, share {row['share']:.2f}"
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_threads(benchmark: Callable[..., object], layout: str) -> None:
    threads = torch.get_num_threads()
    if threads < 2:
        pytest.skip("torch has one thread")
    speedups = []
    for shape in SHAPES:
        x = torch.randn(shape).contiguous(memory_format=LAYOUTS[layout]).requires_grad_()
        run = step(BatchNormAct2d(shape[1]), x, torch.randn_like(x))

        def on(count: int, run: Callable[[], object] = run) -> None:
            torch.set_num_threads(count)
            run()

        try:
            with backend("cpu"):
                times = interleave({"one": lambda: on(1), "two": lambda: on(2)}, ROUNDS)
        finally:
            torch.set_num_threads(threads)
        speedups.append(ratio(times, "one", "two"))
    benchmark.pedantic(run, rounds=5)
    benchmark.extra_info["two threads over one"] = geometric_mean(speedups)
    print(f"\n{layout}: two threads {[round(s, 2) for s in speedups]} times one")


def test_summary(benchmark: Callable[..., object]) -> None:
    """The geometric means over all cases of this run, and the cases where a peer is faster."""
    if len(results) < len(SHAPES) * len(DTYPES) * len(LAYOUTS):
        pytest.skip("runs after all cases of test_forward_and_backward")
    for key in ("eager", "compiled", "share"):
        value = geometric_mean(row[key] for row in results.values())
        benchmark.extra_info[key] = value
        print(f"\n{key}: {value:.2f}")
    benchmark.pedantic(lambda: None, rounds=1)
    slower = [key for key, row in results.items() if min(row["eager"], row["compiled"]) < 1]
    benchmark.extra_info["slower than a peer"] = [str(key) for key in slower]
    print(f"\nslower than a peer: {slower or 'none'}")
