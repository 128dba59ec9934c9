"""Convolutions in 16 bits of images smaller than the kernel or the stride, on CPUs.

Their weight gradients are formed of padded images: here ATen's are NaN of those as they are.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from convolutions import channels_last, passes, results, torch_convolution
from tolerance import assert_as_exact
from torch import Tensor
from unwritten import HALVES, unwritten

from fastgan.ops import norm_act_conv
from fastgan.ops.conv.algorithms import ALGORITHMS, force
from fastgan.ops.conv.aten import reads_beyond
from fastgan.ops.conv.geometry import Geometry, output_shape
from fastgan.ops.core import processor
from fastgan.ops.core.activation import IDENTITY

pytestmark = pytest.mark.usefixtures("processor_fast_in_16_bits")


@pytest.fixture(params=[False, True], ids=["float32 is faster", "16 bits are faster"])
def processor_fast_in_16_bits(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    monkeypatch.setattr(processor, "fast_in", lambda dtype: request.param)
    with unwritten():
        yield


def case(seed: int) -> tuple[Tensor, Tensor, Geometry]:
    """x, weight and geometry, some of one position, some of more than the kernel and stride."""
    draw = random.Random(seed)
    dims, transposed = draw.choice([1, 2, 2, 3]), draw.random() < 0.5
    while True:
        kernel, stride, size = ([draw.randint(1, most) for _ in range(dims)] for most in (5, 7, 6))
        padding = tuple(draw.randint(0, k // 2) for k in kernel)
        extra = tuple(draw.randint(0, s - 1) if transposed else 0 for s in stride)
        geometry = Geometry(tuple(stride), padding, extra, transposed)
        c_in, c_out = draw.choice([1, 3, 16]), draw.choice([1, 3, 16])
        x = torch.randn(draw.choice([1, 3]), c_in, *size)
        ends = (c_in, c_out) if transposed else (c_out, c_in)
        weight = torch.randn(*ends, *kernel)
        try:
            output_shape(x.shape, weight.shape, geometry)
        except ValueError:  # nothing is left of the output
            continue
        if draw.random() < 0.5:
            x, weight = channels_last(x), channels_last(weight)
        return x, weight, geometry


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("algorithms", ["chosen", "ATen's"])
@pytest.mark.parametrize("seed", range(24))
def test_every_pass_is_as_close_as_float32_rounded(
    seed: int, algorithms: str, dtype: torch.dtype
) -> None:
    x, weight, geometry = case(seed)
    x, weight = x.to(dtype), weight.to(dtype)
    dy = torch.randn(output_shape(x.shape, weight.shape, geometry)).to(dtype)
    others = {} if algorithms == "chosen" else dict.fromkeys(ALGORITHMS.keys() - {"aten"}, False)
    with force(**others):
        own = passes(x, weight, dy, geometry)
    given: Any = x, weight, None, dy, geometry, *IDENTITY
    theirs, exact = results(*given, torch.float32), results(*given, torch.float64)
    for name, *values in zip(["y", "dx", "dweight"], own, theirs, exact, strict=True):
        found, float32, float64 = values
        assert_as_exact(name, found, float32.to(dtype), float64)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("seed", range(24))
def test_gradients_of_gradients_are_as_close_as_float32_rounded(
    seed: int, dtype: torch.dtype
) -> None:
    x, weight, geometry = case(seed)

    def own(x: Tensor, weight: Tensor) -> Tensor:
        return norm_act_conv(x, weight, **geometry._asdict())

    def plain(x: Tensor, weight: Tensor) -> Tensor:
        wide = torch.float64 if x.dtype is torch.float64 else torch.float32
        return torch_convolution(x.to(wide), weight.to(wide), None, geometry).to(x.dtype)

    def of_gradients(function: Callable[..., Tensor], wanted: torch.dtype) -> list[Tensor]:
        leaves = [t.to(dtype).to(wanted).requires_grad_() for t in (x, weight)]
        first = torch.autograd.grad(function(*leaves).square().mean(), leaves, create_graph=True)
        penalty = sum(g.square().mean() for g in first)
        return [*first, *torch.autograd.grad(penalty, leaves)]

    found = of_gradients(own, dtype), of_gradients(plain, dtype), of_gradients(plain, torch.float64)
    for name, *values in zip(["dx", "dweight", "ddx", "ddweight"], *found, strict=True):
        assert_as_exact(name, *values)


@pytest.mark.parametrize(
    ("x", "weight", "stride", "padding", "transposed", "beyond"),
    [
        ((1, 8, 4, 4), (8, 8, 4, 4), 1, 0, False, False),
        ((1, 8, 3, 4), (8, 8, 4, 4), 2, 1, False, True),
        ((1, 8, 5, 5), (8, 8, 4, 4), 7, 0, False, True),
        ((1, 8, 7, 7), (8, 8, 4, 4), 7, 0, False, False),
        ((1, 8, 1, 1), (8, 8, 4, 4), 2, 1, True, True),
        ((1, 8, 1, 1), (8, 8, 1, 1), 1, 0, True, False),
        ((1, 8, 4, 4), (8, 8, 4, 4), 2, 1, True, False),
        ((1, 8, 1, 1), (8, 8, 4, 4), 1, 0, True, False),
        ((1, 8, 1), (8, 8, 4), 7, 0, True, True),
    ],
)
def test_which_are_beyond(
    x: tuple[int, ...],
    weight: tuple[int, ...],
    stride: int,
    padding: int,
    transposed: bool,
    beyond: bool,
) -> None:
    dims = len(x) - 2
    geometry = Geometry((stride,) * dims, (padding,) * dims, (0,) * dims, transposed)
    for dtype in HALVES:
        assert reads_beyond(x, weight, geometry, dtype, "cpu") is beyond
        assert not reads_beyond(x, weight, geometry, dtype, "cuda")
    assert not reads_beyond(x, weight, geometry, torch.float32, "cpu")
