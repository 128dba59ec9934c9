"""The raw convolutions in every layout and dtype, and over drawn geometries."""

from __future__ import annotations

import random
from itertools import product
from typing import Any

import pytest
import torch
from convolutions import DTYPES, channels_last, check, parameters
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastgan.ops import conv
from fastgan.ops.conv.algorithms import ALGORITHMS, force
from fastgan.ops.conv.geometry import Geometry, output_shape
from fastgan.ops.core.activation import LEAKY_RELU, SIGMOID, TANH


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
    y = conv.forward(x, weight, bias, geometry, TANH, 0.0)
    assert y.shape == output_shape(x.shape, weight.shape, geometry)
    assert conv.backward_input(y, x, weight, geometry).shape == x.shape
    assert not conv.backward_weight(y, x, weight, geometry).any()


def test_shapes_that_do_not_fit() -> None:
    plain = Geometry((2, 2), (1, 1), (0, 0), False)
    transposed = Geometry((1, 1), (2, 2), (0, 0), True)
    with pytest.raises(ValueError, match=r"x: expected 5 channels, as weight \(C_out, C_in, \*k\)"):
        output_shape((1, 3, 8, 8), (4, 5, 4, 4), plain)
    with pytest.raises(ValueError, match=r"x: expected 4 .* weight \(C_in, C_out, \*k\) of shape"):
        output_shape((1, 3, 8, 8), (4, 3, 4, 4), transposed)
    with pytest.raises(ValueError, match=r"weight: expected \(C_out, .* got shape \(4, 3, 4\)"):
        output_shape((1, 3, 8, 8), (4, 3, 4), plain)
    with pytest.raises(ValueError, match=r"x: shape \(1, 3, 1, 8\) is too small for a kernel"):
        output_shape((1, 3, 1, 8), (4, 3, 4, 4), plain)
    with pytest.raises(ValueError, match=r"x: .* the output would be \(0, 4\)"):
        output_shape((1, 4, 1, 5), (4, 3, 4, 4), transposed)


def meets_only_padding(
    image: tuple[int, ...], positions: tuple[int, ...], kernel: tuple[int, ...], geometry: Geometry
) -> bool:
    """Whether there is a tap that never meets the image: of such ones oneDNN leaves the weight
    gradient in bfloat16 unwritten (torch 2.13), so that there is nothing to be compared with."""
    axes = zip(image, positions, kernel, geometry.stride, geometry.padding, strict=True)
    return any(
        not any(0 <= q * s - p + tap < n for q in range(m))
        for n, m, k, s, p in axes
        for tap in range(k)
    )


def drawn(draw: random.Random) -> tuple[tuple[int, ...], int, tuple[int, ...], Geometry]:
    """x, C_out, the kernel and the geometry of a two-dimensional convolution that has an output."""
    while True:
        kernel = (draw.randint(1, 7), draw.randint(1, 7))
        stride = (draw.randint(1, 4), draw.randint(1, 4))
        padding = (draw.randint(0, 3), draw.randint(0, 3))
        transposed = draw.random() < 0.5
        extra = tuple(draw.randrange(s) if transposed else 0 for s in stride)
        geometry = Geometry(stride, padding, extra, transposed)
        shape = (draw.choice([1, 3]), draw.choice([1, 3, 16, 32]), draw.randint(1, 9))
        x, c_out = (*shape, draw.randint(1, 9)), draw.choice([1, 4, 16, 48])
        order = (x[1], c_out) if transposed else (c_out, x[1])
        try:
            size = output_shape(x, (*order, *kernel), geometry)
        except ValueError:
            continue
        ends = (size[2:], x[2:]) if transposed else (x[2:], size[2:])
        if meets_only_padding(*ends, kernel, geometry):
            continue
        return x, c_out, kernel, geometry


@pytest.mark.parametrize("setting", ["auto", "always"])
def test_drawn_geometries(native: None, setting: str) -> None:
    """Kernels up to 7, strides up to 4 and output padding, by what is chosen and by own kernels
    wherever they can run."""
    own = dict.fromkeys(ALGORITHMS.keys() - {"aten"}, True) if setting == "always" else {}
    draw, kernels, strides = random.Random(setting), set(), set()
    for seed in range(48):
        shape, c_out, kernel, geometry = drawn(draw)
        dtype = DTYPES[seed % 3]
        weight, bias = parameters(shape[1], c_out, kernel, geometry, dtype)
        x = (channels_last if seed % 4 else Tensor.contiguous)(torch.randn(shape).to(dtype))
        with force(**own):
            check(x, weight, bias if seed % 2 else None, geometry, LEAKY_RELU, 0.2)
        kernels.update(kernel)
        strides.update(geometry.stride)
    assert kernels == set(range(1, 8))
    assert strides == {1, 2, 3, 4}


class _Copies(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__.split(".")[0] in ("clone", "copy_", "_to_copy"):
            self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_copy_nothing_where_all_is_channels_last(transposed: bool) -> None:
    """The operand of which only the layout is read was once laid out by a copy of its own."""
    geometry = Geometry((2, 2), (1, 1), (0, 0), transposed)
    x, weight = torch.randn(2, 8, 6, 6), torch.randn(8, 8, 4, 4)
    dy = torch.randn(output_shape(x.shape, weight.shape, geometry))
    x, weight, dy = (t.to(memory_format=torch.channels_last) for t in (x, weight, dy))
    others = dict.fromkeys(ALGORITHMS.keys() - {"aten"}, False)
    with force(**others), _Copies() as copies:
        conv.backward_input(dy, x, weight, geometry)
        conv.backward_weight(dy, x, weight, geometry)
    assert copies.names == []
