"""Items of any dtype and shape, held in memory, as batches in [-1, 1]."""

from __future__ import annotations

import pytest
import torch

from fastgan.data import DataError, ImageDataset, Source, as_source, make_loader

SIDES = {1: (6,), 2: (4, 6), 3: (3, 4, 6)}


def items(dtype: torch.dtype, sides: tuple[int, ...], channels: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    drawn = torch.rand(8, channels, *sides, generator=rng)
    if dtype.is_floating_point:
        return drawn.to(dtype)
    return (drawn * 60_000).int().to(dtype) if dtype == torch.uint16 else (drawn * 200).to(dtype)


@pytest.mark.parametrize(
    ("dtype", "given", "low", "high"),
    [
        (torch.uint8, None, 0, 255),
        (torch.uint8, (0, 100), 0, 100),
        (torch.uint16, None, 0, 65535),
        (torch.int16, (-50, 250), -50, 250),
        (torch.int64, (0, 200), 0, 200),
        (torch.float16, None, 0, 1),
        (torch.float32, (0.25, 0.5), 0.25, 0.5),
    ],
)
@pytest.mark.parametrize("dimensions", SIDES)
def test_a_batch_is_the_items_scaled(dtype, given, low, high, dimensions) -> None:
    for channels in (1, 2, 13):
        stored = items(dtype, SIDES[dimensions], channels)
        dataset = ImageDataset(stored, torch.arange(8), value_range=given)
        assert isinstance(dataset, Source)
        assert dataset.value_range == (low, high)
        loader = dataset.batches(4, 0, "cpu")
        images, labels = loader.batch(0)
        expected = (stored.double()[labels] - low) / (high - low) * 2 - 1
        assert images.dtype == torch.float32
        torch.testing.assert_close(images.double(), expected, atol=1e-6, rtol=0)
        kinds = {2: torch.channels_last, 3: torch.channels_last_3d}
        kind = kinds.get(dimensions, torch.contiguous_format)
        assert images.is_contiguous(memory_format=kind)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("dtype", [torch.uint16, torch.float32])
def test_flip_mirrors_the_last_axis_and_the_image_of_a_pair(dtype, dimensions) -> None:
    stored = items(dtype, SIDES[dimensions], 3)
    dataset = ImageDataset(stored, items(torch.uint8, SIDES[dimensions], 1))
    (plain, pairs), (images, conditions) = (
        dataset.batches(8, 3, "cpu", flip=flip).batch(0) for flip in (False, True)
    )
    turned = [not a.equal(b) for a, b in zip(plain, images, strict=True)]
    assert 0 < sum(turned) < 8
    for i, mirrored in enumerate(turned):
        assert images[i].equal(plain[i].flip(-1) if mirrored else plain[i])
        assert conditions[i].equal(pairs[i].flip(-1) if mirrored else pairs[i])
    assert conditions.min() >= -1
    assert conditions.max() <= 1


def test_flip_of_waveforms_is_refused() -> None:
    with pytest.raises(ValueError, match="flip mirrors images left-right"):
        ImageDataset(torch.zeros(4, 1, 8)).batches(2, 0, "cpu", flip=True)


def test_float_conditions_come_as_they_are() -> None:
    energies = torch.tensor([[5.0, 1.0], [6.0, 2.0], [7.0, 3.0]])
    _, found = ImageDataset(torch.zeros(3, 1, 8), energies).batches(3, 0, "cpu").batch(0)
    assert sorted(found.tolist()) == energies.tolist()


@pytest.mark.parametrize(
    ("values", "found"),
    [((-0.5, 0.5), (-1, 1)), ((0, 1), (0, 1)), ((0, 255), (0, 255)), ((0.2, 3), (0, 255))],
)
def test_the_range_of_floats_is_told_from_the_values(values, found) -> None:
    images = torch.tensor(values, dtype=torch.float32).view(2, 1, 1).expand(2, 1, 4)
    assert ImageDataset(images).value_range == found


@pytest.mark.parametrize(
    ("images", "given", "message"),
    [
        (
            torch.tensor([0.0, 300.0]),
            None,
            r"float32 from 0 to 300: pass value_range=\(low, high\)",
        ),
        (torch.tensor([-3.0, 3.0]), None, "from -3 to 3: pass value_range"),
        (torch.tensor([0, 9]), None, r"torch\.int64 from 0 to 9: pass value_range"),
        (torch.tensor([0.0, torch.nan]), None, "item 1 holds NaN or infinite"),
        (torch.tensor([torch.inf, 0.0]), (0, 1), "item 0 holds NaN or infinite"),
        (torch.tensor([0.0, 1.0]), (1, 0), r"value_range must be finite, \(low, high\)"),
    ],
)
def test_bad_values(images, given, message) -> None:
    with pytest.raises(ValueError, match=message):
        ImageDataset(images.view(2, 1, 1), value_range=given)


def test_bad_conditions() -> None:
    images = torch.zeros(4, 1, 8)
    with pytest.raises(DataError, match=r"labels must be \[4, ...\], got \[3, 2\]"):
        ImageDataset(images, torch.zeros(3, 2))
    with pytest.raises(DataError, match="labels: item 2 holds NaN"):
        ImageDataset(images, torch.tensor([0, 0, torch.nan, 0]))


def test_fingerprints_tell_dtype_and_range() -> None:
    images = torch.zeros(4, 1, 8, dtype=torch.int16)
    sets = [
        ImageDataset(images, value_range=(0, 1)),
        ImageDataset(images, value_range=(0, 2)),
        ImageDataset(images.half()),
        ImageDataset(images.half(), torch.zeros(4, 1)),
        ImageDataset(images.half(), torch.zeros(4)),
    ]
    assert len({each.fingerprint() for each in sets}) == len(sets)


def test_a_tensor_is_a_source() -> None:
    images, labels = make_loader(torch.rand(4, 1, 8), 2, 0, "cpu").batch(0)
    assert labels is None
    assert images.shape == (2, 1, 8)
    assert as_source(torch.rand(4, 1, 8)).name == "tensor"
