"""norm_act on a GPU: each backend against eager PyTorch and torch.compile, and against a copy.

Times are medians over several rounds in which the candidates take turns; between two timings the
cache is overwritten. `share of copy` is the bandwidth of the eight passes that forward and backward
make over the tensor (x twice and z; x and dz twice and dx) over that of a copy of the same size.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import pytest
import torch
from torch import Tensor, nn

from fastgan.nn import BatchNormAct2d
from fastgan.ops import backend

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

# DCGAN-64's activations at batch 128, and at 1024, where they are larger than the cache.
PER_IMAGE = [(512, 4, 4), (256, 8, 8), (128, 16, 16), (64, 32, 32)]
SHAPES = [(batch, *image) for batch in (128, 1024) for image in PER_IMAGE]
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
ROUNDS = 5
PASSES = 8


def step(module: nn.Module, x: Tensor, dz: Tensor, name: str = "auto") -> Callable[[], object]:
    inputs = (x, *module.parameters())

    def run() -> object:
        with backend(name):
            return torch.autograd.grad(module(x), inputs, dz)

    return run


def milliseconds(run: Callable[[], object]) -> float:
    from triton.testing import do_bench

    return float(do_bench(run, warmup=10, rep=40, return_mode="median"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_backward(
    benchmark: Callable[..., object], dtype: str, shape: tuple[int, ...]
) -> None:
    torch._dynamo.reset()
    x = torch.randn(shape, device="cuda", dtype=DTYPES[dtype])
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    dz, copied = torch.randn_like(x), torch.empty_like(x)
    plain = nn.Sequential(nn.BatchNorm2d(shape[1]), nn.LeakyReLU(0.2)).cuda()
    in_place = nn.Sequential(nn.BatchNorm2d(shape[1]), nn.LeakyReLU(0.2, inplace=True)).cuda()
    fused = BatchNormAct2d(shape[1], negative_slope=0.2).cuda()
    runs = {
        "cuda": step(fused, x, dz, "cuda"),
        "triton": step(fused, x, dz, "triton"),
        "eager": step(in_place, x, dz),
        "compiled": step(torch.compile(plain, dynamic=False), x, dz),
        "copy": lambda: copied.copy_(x.detach()),
    }
    rounds = [{name: milliseconds(run) for name, run in runs.items()} for _ in range(ROUNDS)]
    taken = {name: median(r[name] for r in rounds) for name in runs}
    row = {f"{name} ms": value for name, value in taken.items()}
    for name in ("cuda", "triton"):
        for peer in ("eager", "compiled"):
            row[f"{name} over {peer}"] = median(r[peer] / r[name] for r in rounds)
        # A copy makes two passes.
        row[f"{name} share of copy"] = median(r["copy"] * PASSES / 2 / r[name] for r in rounds)
    benchmark.extra_info.update(row)  # type: ignore[attr-defined]

    def synchronised() -> None:
        runs["cuda"]()
        torch.cuda.synchronize()

    benchmark.pedantic(synchronised, rounds=10, warmup_rounds=2)  # type: ignore[attr-defined]
    print(f"\n{dtype} {shape}: " + ", ".join(f"{k} {v:.3f}" for k, v in row.items()))
