"""Convolutions from and to an image of few channels: right, and chosen where they pay."""

from __future__ import annotations

import random

import pytest
import torch
from convolutions import DTYPES, channels_last, check
from torch import Tensor

from fastgan.ops import _convolution, _processor, _thin
from fastgan.ops._convolution import Geometry, output_shape
from fastgan.ops.reference.activation import LEAKY_RELU, SIGMOID, TANH


@pytest.fixture
def thin_always(native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_thin, "setting", "always")


def thin_case(seed: int) -> tuple[tuple[int, ...], tuple[int, ...], Geometry]:
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


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize("seed", range(24))
def test_thin_kernels(thin_always: None, seed: int, dtype: torch.dtype) -> None:
    x_shape, weight_shape, geometry = thin_case(seed)
    activation, slope = [(LEAKY_RELU, 1.0), (LEAKY_RELU, 0.2), (TANH, 0), (SIGMOID, 0)][seed % 4]
    layout = Tensor.contiguous if seed % 5 == 0 else channels_last
    weight = torch.randn(weight_shape).to(dtype)
    channels = output_shape(x_shape, weight_shape, geometry)[1]
    bias = torch.randn(channels) if seed % 3 else None
    check(layout(torch.randn(x_shape).to(dtype)), weight, bias, geometry, activation, slope)


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("size", [(8, 12), (7, 5)])
@pytest.mark.parametrize("kernel", [4, 3])
def test_thin_kernels_in_pairs(
    thin_always: None, kernel: int, size: tuple[int, int], channels: int, dtype: torch.dtype
) -> None:
    """From and to an image, where bfloat16 is summed in pairs and where something is odd."""
    for transposed in (False, True):
        geometry = Geometry((2, 2), (1, 1), (0, 0), transposed)
        wide = 64 if channels < 3 else 48
        shape = (3, wide, *size) if transposed else (3, channels, *(2 * n for n in size))
        weight = torch.randn(wide, channels, kernel, kernel).to(dtype)
        check(channels_last(torch.randn(shape).to(dtype)), weight, None, geometry, LEAKY_RELU, 0.2)


def test_thin_kernels_are_chosen(native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the rule says runs on them: to an image always, from one in half precision, ..."""
    monkeypatch.setattr(_processor, "fast_in", lambda dtype: False)
    transposed = Geometry((2, 2), (1, 1), (0, 0), True)
    plain = transposed._replace(transposed=False)
    same = Geometry((1, 1), (1, 1), (0, 0), False)

    def passes(
        shape: tuple[int, ...],
        weight: tuple[int, ...],
        geometry: Geometry,
        dtype: torch.dtype = torch.float32,
        slope: float = 0.2,
    ) -> list[bool]:
        x, w = channels_last(torch.randn(shape).to(dtype)), torch.randn(weight).to(dtype)
        size = output_shape(shape, weight, geometry)
        dy = channels_last(torch.randn(size).to(dtype))
        given = (None, geometry, LEAKY_RELU, slope, size[2:])
        chosen = [
            _thin.forward(x, w, *given),
            _thin.backward_input(dy, x, w, geometry),
            _thin.backward_weight(dy, x, w, geometry),
        ]
        return [t is not None for t in chosen]

    image, wide = (2, 3, 8, 8), (2, 16, 4, 4)
    kernel = (16, 3, 4, 4)
    assert passes(wide, kernel, transposed) == [True, True, True]
    assert passes(wide, kernel, transposed, torch.bfloat16) == [True, True, True]
    assert passes(image, kernel, plain) == [True, True, True]
    assert passes(image, kernel, plain, slope=1.0) == [True, True, True]
    assert passes(image, kernel, plain, torch.bfloat16, 1.0) == [True, True, True]
    assert passes((2, 1, 8, 8), (16, 1, 4, 4), plain, slope=1.0) == [True, True, True]
    assert passes((2, 16, 8, 8), (3, 16, 3, 3), same) == [True, True, True]
    # Not thin: too many channels, taps or steps, or most positions of x would be in vain.
    none = [False, False, False]
    assert passes((2, 5, 8, 8), (16, 5, 4, 4), plain) == none
    assert passes((2, 3, 9, 9), (16, 3, 8, 8), plain) == none
    assert passes((2, 3, 9, 9), (16, 3, 4, 4), plain._replace(stride=(5, 5))) == none
    assert passes((2, 16, 4, 4), (1, 16, 4, 4), same._replace(padding=(0, 0))) == none
    assert passes((2, 16, 8, 8), (3, 16, 4, 4), plain) == none
    assert passes(image, kernel, plain, torch.float64) == none
    # With instructions for bfloat16, fewer, unless these are what ours run by.
    monkeypatch.setattr(_processor, "fast_in", lambda dtype: True)
    monkeypatch.setattr(_processor, "dot_products", lambda: True)
    assert passes(wide, kernel, transposed, torch.bfloat16) == [True, True, True]
    assert passes(image, kernel, plain, torch.bfloat16, 1.0) == [True, True, True]
    assert passes((2, 16, 8, 8), (3, 16, 3, 3), same, torch.bfloat16) == [True, False, True]
    monkeypatch.setattr(_processor, "dot_products", lambda: False)
    assert passes(wide, kernel, transposed, torch.bfloat16) == [True, False, False]
    assert passes(image, kernel, plain, torch.bfloat16) == [True, True, False]
    assert passes(image, kernel, plain, torch.bfloat16, 1.0) == [False, True, False]
    assert passes((2, 16, 8, 8), (3, 16, 3, 3), same, torch.bfloat16) == [True, False, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_thin_kernels_on_any_number_of_threads(thin_always: None, dtype: torch.dtype) -> None:
    geometry = Geometry((2, 2), (1, 1), (0, 0), False)
    x, weight = (
        channels_last(torch.randn(3, 3, 34, 30).to(dtype)),
        torch.randn(40, 3, 4, 4).to(dtype),
    )
    dy = channels_last(torch.randn(3, 40, 17, 15).to(dtype))
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(
                [
                    _convolution.forward(x, weight, None, geometry, LEAKY_RELU, 0.2),
                    _convolution.backward_input(dy, x, weight, geometry),
                    _convolution.backward_weight(dy, x, weight, geometry),
                ]
            )
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        for own, same in zip(found[0], other, strict=True):
            assert torch.equal(own, same)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"stride": [5, 1]}, "stride: expected 1 to 4, got 5"),
        ({"padding": [-1, 0]}, "padding: expected 0 to"),
        ({"padding": [1]}, "padding: expected two numbers, got 1"),
        ({"bias": torch.zeros(7)}, "bias: expected 8 contiguous values in float32"),
        ({"weight": torch.zeros(8, 3, 8, 1)}, "kernel: expected 1 to 7, got 8"),
        ({"weight": torch.zeros(8, 2, 4, 4)}, r"weight: expected \(8, 3, \*k\) of x's dtype"),
        ({"image": torch.zeros(1, 3, 8)}, r"image: expected \(N, C, H, W\), got 3 dimensions"),
        ({"image": torch.zeros(1, 5, 8, 8), "weight": torch.zeros(8, 5, 4, 4)}, "1 to 4 channels"),
        ({"activation": 3}, "activation: unknown code 3"),
    ],
)
def test_raw_thin_kernel_checks(native: None, change: dict[str, object], match: str) -> None:
    arguments: dict[str, object] = {
        "image": torch.zeros(1, 3, 8, 8),
        "weight": torch.zeros(8, 3, 4, 4),
        "bias": None,
        "stride": [2, 2],
        "padding": [1, 1],
        "size": [4, 4],
        "activation": 0,
        "negative_slope": 1.0,
        **change,
    }
    with pytest.raises(RuntimeError, match=match):
        torch.ops.fastgan_native.thin_conv(**arguments)
