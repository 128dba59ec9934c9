"""Convolutions of bfloat16 by AMX or AVX512-BF16: as exact as torch.nn's, and chosen where they
pay."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from convolutions import (
    assert_same_on_any_number_of_threads,
    channels_last,
    check,
    check_both_ways,
    chosen,
    passes,
)
from torch import Tensor

from fastgan.ops.conv import bf16
from fastgan.ops.conv.algorithms import force
from fastgan.ops.conv.geometry import Geometry
from fastgan.ops.conv.problem import FORWARD, describe
from fastgan.ops.core import processor
from fastgan.ops.core.activation import LEAKY_RELU

HALVED = Geometry((2, 2), (1, 1), (0, 0), False)


@pytest.fixture
def always(native: None) -> Iterator[None]:
    with force(bf16=True, small_channels=False, winograd=False):
        yield


@pytest.mark.parametrize(
    ("batch", "image", "wide", "kernel", "positions", "geometry"),
    [
        (9, 64, 128, (4, 4), (16, 16), HALVED),  # DCGAN's: several blocks and chunks
        (5, 80, 144, (4, 4), (4, 4), HALVED),  # incomplete panels, a sample without a partner
        (2, 16, 48, (3, 3), (7, 9), Geometry((1, 1), (1, 1), (0, 0), False)),
        (1, 32, 16, (7, 6), (3, 2), Geometry((3, 4), (2, 0), (1, 2), False)),
        # Pixels without a tap.
        (3, 48, 16, (1, 2), (4, 3), Geometry((2, 3), (0, 0), (1, 1), False)),
        (2, 16, 32, (4, 4), (1, 1), Geometry((1, 1), (0, 0), (0, 0), False)),
        # Many samples: outputs at a border are summed without the taps beyond it.
        (17, 32, 80, (4, 4), (4, 4), HALVED),
        (16, 16, 48, (3, 3), (5, 1), Geometry((1, 1), (1, 1), (0, 0), False)),
        (16, 32, 16, (7, 6), (3, 2), Geometry((3, 4), (2, 0), (1, 2), False)),
        (16, 16, 16, (1, 2), (4, 3), Geometry((2, 3), (0, 0), (1, 1), False)),
        (16, 16, 16, (2, 2), (7, 7), Geometry((1, 1), (2, 2), (0, 0), False)),  # or without a tap
    ],
)
def test_equals_pytorch(
    always: None,
    batch: int,
    image: int,
    wide: int,
    kernel: tuple[int, int],
    positions: tuple[int, int],
    geometry: Geometry,
) -> None:
    weight = (torch.randn(wide, image, *kernel) / 8).bfloat16()
    check_both_ways("bf16", batch, weight, positions, geometry)


def test_rows_of_a_large_image_come_in_chunks(always: None) -> None:
    x = channels_last(torch.randn(3, 16, 5, 700).bfloat16())
    weight = (torch.randn(16, 16, 5, 3) / 8).bfloat16()
    check(x, weight, None, Geometry((1, 2), (2, 1), (0, 0), False), LEAKY_RELU, 1.0)


@pytest.mark.parametrize(("image", "wide"), [(32, 80), (80, 32), (80, 144)])
def test_the_same_on_any_number_of_threads(always: None, image: int, wide: int) -> None:
    """Threads share out the weight gradient's output tiles, within a row of them and across rows,
    and outputs by the work that each one's taps make."""
    weight = torch.randn(wide, image, 4, 4)
    x = channels_last(torch.randn(17, image, 22, 10).bfloat16())
    dy = channels_last(torch.randn(17, wide, 11, 5).bfloat16())
    assert_same_on_any_number_of_threads(lambda: passes(x, weight, dy, HALVED))


def test_a_float32_weight_is_rounded_as_it_is_read(always: None) -> None:
    """The same bits as of the rounded weight; its gradient is not rounded."""
    weight = torch.randn(48, 80, 4, 4)
    x = channels_last(torch.randn(9, 80, 34, 32).bfloat16())
    dy = channels_last(torch.randn(9, 48, 17, 16).bfloat16())
    y, dx, exact = passes(x, weight, dy, HALVED)
    assert exact.dtype is torch.float32
    for low in (weight.bfloat16(), channels_last(weight).bfloat16()):
        assert torch.equal(y, passes(x, low, dy, HALVED)[0])
        assert torch.equal(dx, passes(x, low, dy, HALVED)[1])
        assert torch.equal(exact.bfloat16(), passes(x, low, dy, HALVED)[2])


def test_where_it_is_chosen(native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the instructions: rows of few positions, and any with a stride; with a matrix unit what
    has a stride, forward and back to x in short rows alone."""

    def runs(
        side: int, stride: int, dtype: torch.dtype = torch.bfloat16, image: int = 64
    ) -> list[bool]:
        geometry = Geometry((stride, stride), (1, 1), (0, 0), False)
        x = channels_last(torch.randn(2, image, stride * side, stride * side).to(dtype))
        weight = torch.randn(128, image, 2 + stride, 2 + stride).to(dtype)
        return [key == "bf16" for key in chosen(x, weight, geometry)]

    monkeypatch.setattr(bf16, "by_amx", lambda: False)
    monkeypatch.setattr(processor, "dot_products", lambda: True)
    monkeypatch.setattr(processor, "fast_in", lambda dtype: True)  # keeps Winograd to float32
    assert all(runs(4, 1) + runs(4, 2) + runs(8, 2))
    assert not any(runs(8, 1) + runs(4, 2, image=48) + runs(4, 2, torch.float32))
    monkeypatch.setattr(processor, "dot_products", lambda: False)
    assert not any(runs(4, 2))
    monkeypatch.setattr(bf16, "by_amx", lambda: True)
    assert all(runs(4, 2) + runs(8, 2))
    assert runs(16, 2) == [False, False, True]
    assert not any(runs(8, 1) + runs(4, 1) + runs(4, 2, image=48) + runs(4, 2, torch.float32))


def test_it_is_called_by_its_instructions(native: None, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.zeros(1, 16, 4, 4), torch.zeros(16, 16, 4, 4)
    for by_amx, name in ((True, "AMX"), (False, "AVX512-BF16")):
        monkeypatch.setattr(bf16, "by_amx", lambda by_amx=by_amx: by_amx)
        assert bf16.name(describe(FORWARD, x, weight, HALVED)) == name


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"image": torch.zeros(1, 16, 8, 8)}, "image: expected bfloat16"),
        (
            {"image": torch.zeros(1, 12, 8, 8).bfloat16()},
            "image: expected a multiple of 16 channels",
        ),
        ({"image": torch.zeros(1, 16, 8).bfloat16()}, r"image: expected \(N, C, H, W\), got 3"),
        (
            {"weight": torch.zeros(16, 32, 4, 4).bfloat16()},
            r"weight: expected \(strided, image, ",
        ),
        ({"stride": [0, 1]}, "stride: expected two numbers of 1"),
        ({"padding": [1]}, "padding: expected two numbers of 0"),
        ({"size": [0, 4]}, "size: expected two numbers of 1"),
    ],
)
def test_raw_checks(native: None, change: dict[str, object], match: str) -> None:
    arguments: dict[str, object] = {
        "image": torch.zeros(1, 16, 8, 8).bfloat16(),
        "weight": torch.zeros(16, 16, 4, 4).bfloat16(),
        "stride": [2, 2],
        "padding": [1, 1],
        "size": [4, 4],
        **change,
    }
    for name in ("image", "weight"):
        tensor = arguments[name]
        assert isinstance(tensor, Tensor)
        if tensor.dim() == 4:
            arguments[name] = tensor.to(memory_format=torch.channels_last)
    with pytest.raises(RuntimeError, match=match):
        torch.ops.fastgan.bf16_conv(**arguments)


@pytest.mark.parametrize(
    ("batch", "match"), [(0, "image: expected at least one"), (2, "strided: expected the batch")]
)
def test_raw_checks_of_the_weight_gradient(native: None, batch: int, match: str) -> None:
    image = channels_last(torch.zeros(batch, 16, 8, 8).bfloat16())
    strided = channels_last(torch.zeros(batch // 2, 16, 4, 4).bfloat16())
    with pytest.raises(RuntimeError, match=match):
        torch.ops.fastgan.bf16_conv_weight(image, strided, [4, 4], [2, 2], [1, 1], torch.float32)
