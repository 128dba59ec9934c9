"""The raw convolutions: output and both gradients against torch.nn's, in every layout."""

from __future__ import annotations

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from tolerance import assert_as_exact
from torch import Tensor

from fastgan.ops import _convolution
from fastgan.ops._convolution import Geometry, output_shape
from fastgan.ops.reference.activation import LEAKY_RELU, SIGMOID, TANH, act

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def channels_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def torch_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    stride, padding, output_padding, transposed = geometry
    name = f"conv{'_transpose' if transposed else ''}{len(stride)}d"
    extra = {"output_padding": output_padding} if transposed else {}
    return getattr(F, name)(x, weight, bias, stride=stride, padding=padding, **extra)


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
    y = _convolution.forward(x, weight, bias, geometry, activation, slope)
    assert y.shape == output_shape(x.shape, weight.shape, geometry)
    assert y.dtype is x.dtype
    assert y.stride() == (channels_last(y) if x.stride(1) == 1 else y.contiguous()).stride()
    dy = torch.randn_like(y)
    own = [
        y,
        _convolution.backward_input(dy, x, weight, geometry),
        _convolution.backward_weight(dy, x, weight, geometry),
    ]
    assert own[1].stride() == x.stride()
    assert own[2].stride() == weight.stride()
    given = (x, weight, bias, dy, geometry, activation, slope)
    theirs, exact = results(*given, x.dtype), results(*given, torch.float64)
    for name, *values in zip(["y", "dx", "dweight"], own, theirs, exact, strict=True):
        assert_as_exact(name, *values)


def parameters(
    c_in: int, c_out: int, k: tuple[int, ...], geometry: Geometry, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    order = (c_in, c_out) if geometry.transposed else (c_out, c_in)
    bias = torch.randn(c_out, dtype=torch.float64 if dtype is torch.float64 else torch.float32)
    return torch.randn(*order, *k).to(dtype), bias


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_equals_pytorch(dimensions: int, transposed: bool, dtype: torch.dtype) -> None:
    d = dimensions
    geometry = Geometry((2,) * d, (1,) * d, (int(transposed),) * d, transposed)
    for layout, weight_layout, biased in product(
        [channels_last, Tensor.contiguous], [channels_last, Tensor.contiguous], [True, False]
    ):
        weight, bias = parameters(5, 6, (4,) * d, geometry, dtype)
        x = layout(torch.randn(2, 5, *(7, 5, 6)[:d]).to(dtype))
        for activation, slope in ((LEAKY_RELU, 1.0), (LEAKY_RELU, 0.2), (TANH, 0), (SIGMOID, 0)):
            check(x, weight_layout(weight), bias if biased else None, geometry, activation, slope)


@pytest.mark.parametrize("transposed", [False, True])
def test_empty_batch(transposed: bool) -> None:
    geometry = Geometry((2, 2), (1, 1), (0, 0), transposed)
    weight, bias = parameters(3, 4, (4, 4), geometry, torch.float32)
    x = torch.randn(0, 3, 8, 8)
    y = _convolution.forward(x, weight, bias, geometry, TANH, 0.0)
    assert y.shape == output_shape(x.shape, weight.shape, geometry)
    assert _convolution.backward_input(y, x, weight, geometry).shape == x.shape
    assert not _convolution.backward_weight(y, x, weight, geometry).any()


def test_shapes_that_do_not_fit() -> None:
    plain = Geometry((2, 2), (1, 1), (0, 0), False)
    transposed = Geometry((1, 1), (2, 2), (0, 0), True)
    with pytest.raises(ValueError, match=r"weight: expected \(C_out, C_in, \*k\) for x of shape"):
        output_shape((1, 3, 8, 8), (4, 5, 4, 4), plain)
    with pytest.raises(ValueError, match=r"weight: expected \(C_in, C_out, \*k\) for x of shape"):
        output_shape((1, 3, 8, 8), (4, 3, 4, 4), transposed)
    with pytest.raises(ValueError, match=r"weight: .* got shape \(4, 3, 4\)"):
        output_shape((1, 3, 8, 8), (4, 3, 4), plain)
    with pytest.raises(ValueError, match=r"x: shape \(1, 3, 1, 8\) is too small for a kernel"):
        output_shape((1, 3, 1, 8), (4, 3, 4, 4), plain)
    with pytest.raises(ValueError, match=r"x: .* the output would be \(0, 4\)"):
        output_shape((1, 4, 1, 5), (4, 3, 4, 4), transposed)
