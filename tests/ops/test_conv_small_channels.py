"""Convolutions from and to an image of few channels: right, and chosen where they pay."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from convolutions import (
    DTYPES,
    assert_same_on_any_number_of_threads,
    channels_last,
    check,
    chosen,
    passes,
    small_channel_case,
)
from devices import DEVICES
from torch import Tensor

from fastgan.ops import available
from fastgan.ops.conv.algorithms import force
from fastgan.ops.conv.geometry import Geometry, output_shape
from fastgan.ops.core import processor
from fastgan.ops.core.activation import LEAKY_RELU, SIGMOID, TANH


@pytest.fixture
def always(native: None) -> Iterator[None]:
    with force(small_channels=True):
        yield


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize("seed", range(24))
def test_kernels(always: None, seed: int, dtype: torch.dtype, device: str) -> None:
    assert available()[device] is None
    x_shape, weight_shape, geometry = small_channel_case(seed)
    activation, slope = [(LEAKY_RELU, 1.0), (LEAKY_RELU, 0.2), (TANH, 0), (SIGMOID, 0)][seed % 4]
    layout = Tensor.contiguous if seed % 5 == 0 else channels_last
    weight = torch.randn(weight_shape, device=device).to(dtype)
    channels = output_shape(x_shape, weight_shape, geometry)[1]
    bias = torch.randn(channels, device=device) if seed % 3 else None
    x = layout(torch.randn(x_shape, device=device).to(dtype))
    check(x, weight, bias, geometry, activation, slope)


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("size", [(8, 12), (7, 5)])
@pytest.mark.parametrize("kernel", [4, 3])
def test_kernels_in_pairs(
    always: None, kernel: int, size: tuple[int, int], channels: int, dtype: torch.dtype
) -> None:
    """From and to an image, where bfloat16 is summed in pairs and where something is odd."""
    for transposed in (False, True):
        geometry = Geometry((2, 2), (1, 1), (0, 0), transposed)
        wide = 64 if channels < 3 else 48
        shape = (3, wide, *size) if transposed else (3, channels, *(2 * n for n in size))
        weight = torch.randn(wide, channels, kernel, kernel).to(dtype)
        check(channels_last(torch.randn(shape).to(dtype)), weight, None, geometry, LEAKY_RELU, 0.2)


def test_kernels_are_chosen(native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the rule says runs on them: to an image always, from one in half precision, ..."""
    monkeypatch.setattr(processor, "fast_in", lambda dtype: False)
    monkeypatch.setattr(processor, "matrix_unit", lambda: False)
    transposed = Geometry((2, 2), (1, 1), (0, 0), True)
    plain = transposed._replace(transposed=False)
    same = Geometry((1, 1), (1, 1), (0, 0), False)

    def runs(
        shape: tuple[int, ...],
        weight: tuple[int, ...],
        geometry: Geometry,
        dtype: torch.dtype = torch.float32,
        slope: float = 0.2,
    ) -> list[bool]:
        x, w = channels_last(torch.randn(shape).to(dtype)), torch.randn(weight).to(dtype)
        return [key == "small_channels" for key in chosen(x, w, geometry, slope != 1.0)]

    image, wide = (2, 3, 8, 8), (2, 16, 4, 4)
    kernel = (16, 3, 4, 4)
    assert runs(wide, kernel, transposed) == [True, True, True]
    assert runs(wide, kernel, transposed, torch.bfloat16) == [True, True, True]
    assert runs(image, kernel, plain) == [True, True, True]
    assert runs(image, kernel, plain, slope=1.0) == [True, True, True]
    assert runs(image, kernel, plain, torch.bfloat16, 1.0) == [True, True, True]
    assert runs((2, 1, 8, 8), (16, 1, 4, 4), plain, slope=1.0) == [True, True, True]
    assert runs((2, 16, 8, 8), (3, 16, 3, 3), same) == [True, True, True]
    # Not theirs: too many channels, taps or steps, or most positions of x would be in vain.
    none = [False, False, False]
    assert runs((2, 5, 8, 8), (16, 5, 4, 4), plain) == none
    assert runs((2, 3, 9, 9), (16, 3, 8, 8), plain) == none
    assert runs((2, 3, 9, 9), (16, 3, 4, 4), plain._replace(stride=(5, 5))) == none
    assert runs((2, 16, 4, 4), (1, 16, 4, 4), same._replace(padding=(0, 0))) == none
    assert runs((2, 16, 8, 8), (3, 16, 4, 4), plain) == none
    assert runs(image, kernel, plain, torch.float64) == none
    # With instructions for bfloat16, fewer, unless these are what ours run by.
    monkeypatch.setattr(processor, "fast_in", lambda dtype: True)
    monkeypatch.setattr(processor, "dot_products", lambda: True)
    assert runs(wide, kernel, transposed, torch.bfloat16) == [True, True, True]
    assert runs(image, kernel, plain, torch.bfloat16, 1.0) == [True, True, True]
    assert runs((2, 16, 8, 8), (3, 16, 3, 3), same, torch.bfloat16) == [True, False, True]
    monkeypatch.setattr(processor, "dot_products", lambda: False)
    assert runs(wide, kernel, transposed, torch.bfloat16) == [True, False, False]
    assert runs(image, kernel, plain, torch.bfloat16) == [True, True, False]
    assert runs(image, kernel, plain, torch.bfloat16, 1.0) == [False, True, False]
    assert runs((2, 16, 8, 8), (3, 16, 3, 3), same, torch.bfloat16) == [True, False, True]
    monkeypatch.setattr(processor, "matrix_unit", lambda: True)
    assert runs(wide, kernel, transposed, torch.bfloat16) == none
    assert runs(image, kernel, plain, torch.bfloat16) == none
    assert runs((2, 1, 8, 8), (16, 1, 4, 4), plain, torch.bfloat16) == [True, True, True]
    assert runs((2, 16, 8, 8), (3, 16, 3, 3), same, torch.bfloat16) == [True, False, True]
    assert runs(wide, kernel, transposed) == [True, True, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_kernels_on_any_number_of_threads(always: None, dtype: torch.dtype) -> None:
    geometry = Geometry((2, 2), (1, 1), (0, 0), False)
    x, weight = (
        channels_last(torch.randn(3, 3, 34, 30).to(dtype)),
        torch.randn(40, 3, 4, 4).to(dtype),
    )
    dy = channels_last(torch.randn(3, 40, 17, 15).to(dtype))
    assert_same_on_any_number_of_threads(lambda: passes(x, weight, dy, geometry))


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
def test_raw_checks(native: None, change: dict[str, object], match: str) -> None:
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
        torch.ops.fastgan.small_channel_conv(**arguments)
