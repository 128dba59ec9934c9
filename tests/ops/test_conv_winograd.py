"""Convolutions by Winograd's F(2x2, 2x2): as exact as torch.nn's, and chosen where they pay."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from convolutions import (
    DTYPES,
    assert_same_on_any_number_of_threads,
    channels_last,
    check_both_ways,
    chosen,
    passes,
)
from torch import Tensor

from fastgan.ops import conv
from fastgan.ops.conv.algorithms import force
from fastgan.ops.conv.geometry import Geometry
from fastgan.ops.core import processor

HALVED = Geometry((2, 2), (1, 1), (0, 0), False)  # what the algorithm is for


@pytest.fixture
def always(native: None) -> Iterator[None]:
    with force(winograd=True):
        yield


SIZES = [
    (3, 64, 128, (16, 16)),  # DCGAN's: several blocks of tiles
    (2, 48, 80, (5, 7)),  # incomplete tiles, panels and output tiles
    (5, 144, 16, (4, 2)),
    (1, 16, 32, (1, 1)),
    (9, 80, 64, (5, 5)),  # the weight's gradient: several blocks of tiles, the last one shorter
]
MANY_TILES = (270, 144, 576, (2, 2))  # output tiles of more tiles at once, again several


@pytest.mark.parametrize(
    ("batch", "image", "wide", "positions", "dtype"),
    [
        *((*size, dtype) for size in SIZES for dtype in DTYPES[:3]),
        (*MANY_TILES, torch.float32),  # of half precision the reference takes minutes
    ],
)
def test_equals_pytorch(
    always: None,
    batch: int,
    image: int,
    wide: int,
    positions: tuple[int, int],
    dtype: torch.dtype,
) -> None:
    weight = (torch.randn(wide, image, 4, 4) / 8).to(dtype)
    check_both_ways("winograd", batch, weight, positions, HALVED)


@pytest.mark.parametrize(
    ("batch", "image", "wide", "positions"),
    [(3, 32, 80, (11, 5)), (2, 208, 272, (3, 3))],
    ids=["parts of the tiles", "parts of the channels"],
)
def test_the_same_on_any_number_of_threads(
    always: None, batch: int, image: int, wide: int, positions: tuple[int, int]
) -> None:
    x = channels_last(torch.randn(batch, image, *(2 * n for n in positions)))
    weight, dy = torch.randn(wide, image, 4, 4), channels_last(torch.randn(batch, wide, *positions))
    assert_same_on_any_number_of_threads(lambda: passes(x, weight, dy, HALVED))


def test_weight_gradients_on_any_number_of_threads(always: None) -> None:
    """Threads that begin within a row of output tiles, with tiles in several parts."""
    x, weight = channels_last(torch.randn(5, 80, 16, 16)), torch.randn(144, 80, 4, 4)
    dy = channels_last(torch.randn(5, 144, 8, 8))
    assert_same_on_any_number_of_threads(lambda: [conv.backward_weight(dy, x, weight, HALVED)])


def test_where_it_is_chosen(native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """For its geometry, wide channels-last tensors and products in float32, and nothing else."""

    def runs(x: Tensor, weight: Tensor, geometry: Geometry = HALVED) -> bool:
        return chosen(x, weight, geometry)[0] == "winograd"

    x, weight = channels_last(torch.randn(16, 64, 8, 8)), torch.randn(128, 64, 4, 4)
    assert runs(x, weight)
    assert runs(channels_last(torch.randn(16, 128, 5, 4)), weight, HALVED._replace(transposed=True))
    assert runs(x[:8], weight)
    assert not runs(x[:7], weight)  # 28 tiles: the weights' transform would take as long
    assert chosen(x[:7], weight, HALVED)[2] == "winograd"
    assert not runs(x.contiguous(), weight)
    assert not runs(x.double(), weight.double())
    assert not runs(x[:, :, :7].contiguous(memory_format=torch.channels_last), weight)
    assert not runs(x, weight, HALVED._replace(padding=(0, 0)))
    assert not runs(x, weight[..., :2, :2])
    assert not runs(channels_last(x[:, :, :6]), weight)  # three positions: no fewer products
    assert not runs(channels_last(x[:, :32]), weight[:, :32])
    assert not runs(channels_last(x[:, :60]), weight[:, :60])
    for fast in (False, True):
        monkeypatch.setattr(processor, "fast_in", lambda dtype, fast=fast: fast)
        assert runs(x.bfloat16(), weight.bfloat16()) is not fast


@pytest.mark.parametrize(
    ("op", "tensors", "match"),
    [
        ("winograd_conv", ((1, 16, 7, 8), (16, 16, 4, 4)), "image: expected positive sizes"),
        ("winograd_conv", ((1, 12, 8, 8), (16, 12, 4, 4)), "image: expected a multiple of 16"),
        ("winograd_conv", ((1, 16, 8, 8), (16, 32, 4, 4)), "weight: expected"),
        ("winograd_conv_transpose", ((1, 16, 4, 4), (16, 16, 4, 8)), "weight: expected"),
        ("winograd_conv_weight", ((1, 16, 8, 8), (1, 16, 4, 5)), "strided: expected the batch"),
        ("winograd_conv", ((0, 16, 8, 8), (16, 16, 4, 4)), "x: expected at least one sample"),
    ],
)
def test_raw_checks(
    native: None, op: str, tensors: tuple[tuple[int, ...], ...], match: str
) -> None:
    with pytest.raises(RuntimeError, match=match):
        getattr(torch.ops.fastgan, op)(*(channels_last(torch.randn(s)) for s in tensors))
    with pytest.raises(RuntimeError, match="channels-last"):
        getattr(torch.ops.fastgan, op)(torch.randn(1, 16, 8, 8), torch.randn(16, 16, 4, 4))
