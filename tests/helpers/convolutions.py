"""The raw convolutions held to the tolerance rule: output and both gradients against torch.nn's."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import product

import torch
import torch.nn.functional as F
from cases import channels_last
from tolerance import assert_as_exact
from torch import Tensor

from fastgan.ops import conv
from fastgan.ops.conv.algorithms import ALGORITHMS, select
from fastgan.ops.conv.geometry import Geometry, output_shape
from fastgan.ops.conv.problem import FORWARD, PASSES, describe
from fastgan.ops.core.activation import IDENTITY, LEAKY_RELU, act
from fastgan.ops.core.memory_format import dense_like, is_channels_last

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def torch_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    stride, padding, output_padding, transposed = geometry
    name = f"conv{'_transpose' if transposed else ''}{len(stride)}d"
    extra = {"output_padding": output_padding} if transposed else {}
    return getattr(F, name)(x, weight, bias, stride=stride, padding=padding, **extra)


def chosen(
    x: Tensor, weight: Tensor, geometry: Geometry, activated: bool = False
) -> tuple[str, str, str]:
    """The algorithms that run the forward pass, the data gradient and the weight gradient."""
    keys = {id(algorithm): key for key, algorithm in ALGORITHMS.items()}
    problems = (describe(of, x, weight, geometry, activated and of == FORWARD) for of in PASSES)
    first, second, third = (keys[id(select(p))] for p in problems)
    return first, second, third


def passes(x: Tensor, weight: Tensor, dy: Tensor, geometry: Geometry) -> list[Tensor]:
    """The results of the three passes."""
    return [
        conv.forward(x, weight, None, geometry, *IDENTITY),
        conv.backward_input(dy, x, weight, geometry),
        conv.backward_weight(dy, x, weight, geometry),
    ]


def results(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dy: Tensor,
    geometry: Geometry,
    activation: int,
    slope: float,
    dtype: torch.dtype,
) -> list[Tensor]:
    """torch.nn's act(conv(x) + bias), and the gradients of conv for dy, at a dtype."""
    x, weight = (t.to(dtype).detach().requires_grad_() for t in (x, weight))
    y = torch_convolution(x, weight, None if bias is None else bias.to(dtype), geometry)
    return [act(y, activation, slope), *torch.autograd.grad(y, (x, weight), dy.to(dtype))]


def check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    activation: int,
    slope: float,
) -> None:
    y = conv.forward(x, weight, bias, geometry, activation, slope)
    assert y.shape == output_shape(x.shape, weight.shape, geometry)
    assert y.dtype is x.dtype
    assert is_channels_last(y) if is_channels_last(x) else y.is_contiguous()
    dy = torch.randn_like(y)
    own = [
        y,
        conv.backward_input(dy, x, weight, geometry),
        conv.backward_weight(dy, x, weight, geometry),
    ]
    assert own[1] is dense_like(own[1], x)
    assert own[2] is dense_like(own[2], weight)
    given = (x, weight, bias, dy, geometry, activation, slope)
    theirs, exact = results(*given, x.dtype), results(*given, torch.float64)
    for name, *values in zip(["y", "dx", "dweight"], own, theirs, exact, strict=True):
        assert_as_exact(name, *values)


def check_both_ways(
    key: str, batch: int, weight: Tensor, strided: tuple[int, int], geometry: Geometry
) -> None:
    """A convolution to a strided map of so many positions and the transposed one from it, every
    pass by the algorithm `key`, all channels-last but the weight, which is laid out either way."""
    wide, image = weight.shape[:2]
    back = geometry._replace(transposed=True)
    size = output_shape((batch, wide, *strided), weight.shape, back)[2:]
    for transposed, layout in product([False, True], [channels_last, Tensor.contiguous]):
        own = back if transposed else geometry._replace(output_padding=(0, 0))
        shape = (wide, *strided) if transposed else (image, *size)
        x = channels_last(torch.randn(batch, *shape).to(weight.dtype))
        assert set(chosen(x, weight, own)) == {key}
        bias = torch.randn(image if transposed else wide)
        check(x, layout(weight), bias, own, LEAKY_RELU, 0.2)


def assert_same_on_any_number_of_threads(run: Callable[[], list[Tensor]]) -> None:
    threads, found = torch.get_num_threads(), []
    try:
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            found.append(run())
    finally:
        torch.set_num_threads(threads)
    for own in found[1:]:
        for a, b in zip(own, found[0], strict=True):
            assert torch.equal(a, b)


def parameters(
    c_in: int, c_out: int, k: tuple[int, ...], geometry: Geometry, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    order = (c_in, c_out) if geometry.transposed else (c_out, c_in)
    bias = torch.randn(c_out, dtype=torch.float64 if dtype is torch.float64 else torch.float32)
    return torch.randn(*order, *k).to(dtype), bias


def small_channel_case(seed: int) -> tuple[tuple[int, ...], tuple[int, ...], Geometry]:
    """Shapes of x and weight and the geometry of a convolution from or to an image."""
    draw = random.Random(seed)
    image, wide = draw.randint(1, 4), draw.choice([5, 16, 24, 64, 80, 130])
    kernel = (draw.randint(1, 7), draw.randint(1, 7))
    transposed, to_image = draw.random() < 0.5, draw.random() < 0.5
    own = transposed == to_image
    stride = (draw.randint(1, 4), draw.randint(1, 4)) if own else (1, 1)
    padding = tuple(draw.randint(0, min(3, k - 1)) for k in kernel)
    extra = tuple(draw.randint(0, s - 1) if transposed else 0 for s in stride)
    size = tuple(k + draw.randint(0, 12) for k in kernel)
    c_in, c_out = (wide, image) if to_image else (image, wide)
    weight = (c_in, c_out, *kernel) if transposed else (c_out, c_in, *kernel)
    geometry = Geometry(stride, padding, extra, transposed)
    return (draw.choice([1, 3]), c_in, *size), weight, geometry
