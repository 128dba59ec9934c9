from __future__ import annotations

from typing import Any

import pytest
import torch

from fastgan.data import ImageDataset, ResidentLoader


def numbered(count: int, channels: int = 1, labels: bool = True) -> ImageDataset:
    """Image i has the value i on its left half and 255 - i on its right."""
    left = torch.arange(count, dtype=torch.uint8).view(count, 1, 1, 1).expand(-1, channels, 4, 3)
    images = torch.cat([left, 255 - left], 3)
    return ImageDataset(images, torch.arange(count) if labels else None)


def levels(images: torch.Tensor) -> list[int]:
    return ((images[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


@pytest.mark.parametrize("channels", [1, 3])
def test_batch(channels: int) -> None:
    dataset = numbered(20, channels)
    images, labels = ResidentLoader(dataset, 8, 0, "cpu").batch(0)
    assert images.shape == (8, channels, 4, 6)
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels is not None
    assert labels.dtype == torch.int64
    assert levels(images) == labels.tolist()
    assert torch.equal(images, dataset.images[labels].float() / 127.5 - 1)


def test_range_is_minus_one_to_one() -> None:
    images, _ = ResidentLoader(numbered(256), 256, 0, "cpu").batch(0)
    assert images.min() == -1
    assert images.max() == 1


def test_unlabelled() -> None:
    assert ResidentLoader(numbered(4, labels=False), 2, 0, "cpu").batch(1)[1] is None


def test_an_epoch_has_every_image_once_and_drops_the_rest() -> None:
    loader = ResidentLoader(numbered(23), 5, 0, "cpu")
    assert loader.order.steps_per_epoch == 4
    first = [levels(loader.batch(step)[0]) for step in range(4)]
    assert len({i for batch in first for i in batch}) == 20
    second = [levels(loader.batch(step)[0]) for step in range(4, 8)]
    assert len({i for batch in second for i in batch}) == 20
    assert first != second
    assert [loader.order.place(step)[0] for step in (0, 3, 4, 8)] == [0, 0, 1, 2]


def test_every_image_is_seen_over_epochs() -> None:
    loader = ResidentLoader(numbered(23), 20, 0, "cpu")
    assert len({i for step in range(20) for i in levels(loader.batch(step)[0])}) == 23


@pytest.mark.parametrize("flip", [False, True])
def test_pure_function_of_seed_and_step(flip: bool) -> None:
    dataset = numbered(50)
    forward = ResidentLoader(dataset, 7, 3, "cpu", flip)
    batches = [forward.batch(step) for step in range(30)]
    jumping = ResidentLoader(dataset, 7, 3, "cpu", flip)
    for step in torch.randperm(30, generator=torch.Generator().manual_seed(0)).tolist():
        torch.manual_seed(step)
        images, labels = jumping.batch(step)
        assert torch.equal(images, batches[step][0])
        assert labels is not None
        assert torch.equal(labels, batches[step][1])


def test_leaves_the_global_generator_alone() -> None:
    loader = ResidentLoader(numbered(20), 5, 0, "cpu", flip=True)
    before = torch.get_rng_state()
    loader.batch(9)
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_do_not_share_memory() -> None:
    loader = ResidentLoader(numbered(20), 5, 0, "cpu", flip=True)
    images, labels = loader.batch(0)
    kept = images.clone()
    images.fill_(9)
    assert labels is not None
    labels.fill_(9)
    again, labels = loader.batch(0)
    assert torch.equal(again, kept)
    assert labels is not None
    assert labels.max() > 9 or labels.unique().numel() == 5


def test_seed_and_epoch_are_not_interchangeable() -> None:
    dataset = numbered(100)
    orders = {
        (seed, epoch): tuple(levels(ResidentLoader(dataset, 100, seed, "cpu").batch(epoch)[0]))
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(set(orders.values())) == 16


def test_order_is_pinned() -> None:
    pinned = [
        [252, 7, 6, 251, 253, 247, 246, 255, 250, 254],
        [247, 0, 9, 253, 7, 3, 5, 1, 251, 249],
    ]
    # Checkpoints count on it: a resume after an update must see the same batches.
    loader = ResidentLoader(numbered(10), 10, 42, "cpu", flip=True)
    assert [levels(loader.batch(step)[0]) for step in (0, 1)] == pinned


def test_flip() -> None:
    plain = ResidentLoader(numbered(200), 200, 5, "cpu")
    flipped = ResidentLoader(numbered(200), 200, 5, "cpu", flip=True)
    counts = []
    for step in range(20):
        a, b = plain.batch(step)[0], flipped.batch(step)[0]
        same = (a == b).flatten(1).all(1)
        mirrored = (a.flip(3) == b).flatten(1).all(1)
        assert bool((same ^ mirrored).all())
        assert b.is_contiguous(memory_format=torch.channels_last)
        counts.append(int(mirrored.sum()))
    # 4,000 fair coins: five standard deviations are 158.
    assert abs(sum(counts) - 2000) < 158
    assert len(set(counts)) > 1


def test_ranks_share_the_batch_of_one_process() -> None:
    dataset = numbered(50)
    single = ResidentLoader(dataset, 12, 1, "cpu", flip=True)
    ranks = [ResidentLoader(dataset, 4, 1, "cpu", True, rank, 3) for rank in range(3)]
    for step in range(9):
        whole = torch.cat([loader.batch(step)[0] for loader in ranks])
        assert torch.equal(whole, single.batch(step)[0])
    assert {loader.order.steps_per_epoch for loader in ranks} == {4}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"batch_size": -4}, ValueError, "batch_size must be at least 1, got -4"),
        ({"batch_size": 2.0}, TypeError, "batch_size must be an int"),
        ({"batch_size": 11}, ValueError, "batch_size 11 is larger than the data.*10 images"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"seed": None}, TypeError, "seed must be an int"),
        ({"world_size": 0}, ValueError, "world_size must be at least 1"),
        ({"rank": -1}, ValueError, "rank must be at least 0"),
        ({"rank": 1}, ValueError, "rank must be less than world_size = 1, got 1"),
        (
            {"batch_size": 4, "world_size": 3},
            ValueError,
            "batch_size 4 times world_size 3 is larger than the data",
        ),
    ],
)
def test_errors(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    given = {"batch_size": 2, "seed": 0, "device": "cpu", **arguments}
    with pytest.raises(error, match=message):
        ResidentLoader(numbered(10), **given)


@pytest.mark.parametrize(("step", "error"), [(-1, ValueError), (1.0, TypeError)])
def test_bad_step(step: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="step must be"):
        ResidentLoader(numbered(10), 2, 0, "cpu").batch(step)
