"""Convolutions by im2col and GEMM: right in every geometry they take, and chosen where they pay."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from convolutions import channels_last, check, chosen
from torch import Tensor

from fastgan.ops.conv.algorithms import force
from fastgan.ops.conv.geometry import Geometry, output_shape
from fastgan.ops.core import processor
from fastgan.ops.core.activation import LEAKY_RELU


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("positions", "kernel", "stride", "padding", "extra"),
    [
        ((4, 4), (4, 4), (2, 2), (1, 1), (0, 0)),  # DCGAN's layers
        ((1, 1), (4, 4), (1, 1), (0, 0), (0, 0)),  # its first and last one
        ((2, 3), (3, 1), (1, 1), (1, 0), (0, 0)),
        ((3, 2), (6, 3), (2, 3), (0, 2), (1, 2)),
        ((3, 4), (2, 4), (2, 1), (2, 3), (1, 0)),
    ],
)
@force(im2col=True, small_channels=False, bf16=False)
def test_equals_pytorch(
    dtype: torch.dtype,
    positions: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    extra: tuple[int, int],
) -> None:
    weight = torch.randn(6, 5, *kernel).to(dtype)
    size = output_shape((1, 6, *positions), weight.shape, Geometry(stride, padding, extra, True))
    for transposed, layout in product([False, True], [channels_last, Tensor.contiguous]):
        geometry = Geometry(stride, padding, extra if transposed else (0, 0), transposed)
        x = torch.randn(3, *((6, *positions) if transposed else (5, *size[2:]))).to(dtype)
        bias = torch.randn(5 if transposed else 6, dtype=dtype if x.dtype.itemsize == 8 else None)
        if transposed or output_shape(x.shape, weight.shape, geometry)[2:] == positions:
            assert set(chosen(layout(x), weight, geometry)) == {"im2col"}
            check(layout(x), weight, bias, geometry, LEAKY_RELU, 0.2)


@pytest.mark.parametrize("fast", [True, False])
@force(small_channels=False, winograd=False)
def test_where_it_is_chosen(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the map has few positions and many channels, and products are fast."""
    monkeypatch.setattr(processor, "fast_products", lambda: fast)
    layer = Geometry((2, 2), (1, 1), (0, 0), False)
    whole = Geometry((1, 1), (0, 0), (0, 0), False)

    def runs(c_in: int, c_out: int, size: int, k: int, geometry: Geometry) -> bool:
        weight = torch.randn(*((c_in, c_out) if geometry.transposed else (c_out, c_in)), k, k)
        keys = set(chosen(torch.randn(2, c_in, size, size), weight, geometry))
        assert len(keys) == 1
        return keys == {"im2col"}

    assert runs(128, 256, 8, 4, layer) is fast
    assert runs(256, 128, 4, 4, layer._replace(transposed=True)) is fast
    assert runs(10, 64, 1, 4, whole._replace(transposed=True))
    assert runs(64, 1, 4, 4, whole)
    assert not runs(128, 256, 16, 4, layer)
    assert not runs(64, 128, 8, 4, layer)
    assert not runs(128, 128, 7, 3, layer)
