from __future__ import annotations

import hashlib
from itertools import pairwise

import numpy as np
import pytest
import torch

from fastgan.data import DataError, ImageDataset
from fastgan.data.dataset import spread


def make(n: int = 6, labels: bool = True) -> ImageDataset:
    images = torch.arange(n * 2 * 3 * 4).remainder(256).to(torch.uint8).view(n, 2, 3, 4)
    return ImageDataset(images, torch.arange(n) % 3 if labels else None, None, "made")


def test_len_and_frozen() -> None:
    dataset = make()
    assert len(dataset) == 6
    with pytest.raises(AttributeError):
        dataset.name = "other"  # type: ignore[misc]


def test_fingerprint_follows_content_only() -> None:
    dataset = make()
    again = ImageDataset(dataset.images.clone(), dataset.labels, ("a", "b", "c"), "other", 3)
    assert again.fingerprint() == dataset.fingerprint()
    assert len(dataset.fingerprint()) == 64

    channels_last = dataset.images.to(memory_format=torch.channels_last)
    assert ImageDataset(channels_last, dataset.labels).fingerprint() == dataset.fingerprint()

    changed = dataset.images.clone()
    changed[5, 1, 2, 3] += 1
    assert dataset.labels is not None
    others = [
        ImageDataset(changed, dataset.labels),
        ImageDataset(dataset.images, dataset.labels.flip(0)),
        ImageDataset(dataset.images),
        ImageDataset(dataset.images.view(6, 2, 4, 3), dataset.labels),
        dataset.select([1, 0, 2, 3, 4, 5]),
    ]
    prints = {other.fingerprint() for other in others}
    assert len(prints) == len(others)
    assert dataset.fingerprint() not in prints


def test_fingerprint_is_the_documented_hash() -> None:
    # Checkpoints hold it: it must not change with a release.
    dataset = make(2)
    expected = hashlib.sha256(b"fastgan.ImageDataset.1" + b"(2, 2, 3, 4)")
    expected.update(dataset.images.numpy().tobytes() + b"labels")
    expected.update(np.array([0, 1], "<i8").tobytes())
    assert dataset.fingerprint() == expected.hexdigest()


def test_select() -> None:
    dataset = make()
    some = dataset.select([4, 0, -1])
    assert torch.equal(some.images, dataset.images[[4, 0, 5]])
    assert some.labels is not None
    assert some.labels.tolist() == [1, 0, 2]
    assert some.name == "made"
    assert make(labels=False).select(torch.tensor([1])).labels is None


def test_select_errors() -> None:
    dataset = make()
    with pytest.raises(IndexError, match=r"0\.\.5"):
        dataset.select([6])
    with pytest.raises(IndexError):
        dataset.select([-7])
    with pytest.raises(DataError, match="at least one"):
        dataset.select([])
    with pytest.raises(TypeError, match="sequence of int"):
        dataset.select(torch.ones(6, dtype=torch.bool))
    with pytest.raises(TypeError, match="sequence of int"):
        dataset.select([0.5])  # type: ignore[list-item]


def test_construction_errors() -> None:
    images = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    labels = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(TypeError, match=r"images must be of uint8, .*, got torch\.float64"):
        ImageDataset(images.double())
    with pytest.raises(TypeError, match="got ndarray"):
        ImageDataset(images.numpy())  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"\[N, C, H, W\].*\[4, 2\]"):
        ImageDataset(images[:, 0, 0])
    with pytest.raises(DataError, match="no zero"):
        ImageDataset(images[:0])
    with pytest.raises(TypeError, match=r"torch\.int64 tensor, got torch\.int32"):
        ImageDataset(images, labels.int())
    with pytest.raises(DataError, match=r"labels must have shape \[4\].*\[3\]"):
        ImageDataset(images, labels[:3])
    with pytest.raises(DataError, match="negative"):
        ImageDataset(images, labels - 1)
    with pytest.raises(DataError, match="label 2 has no name"):
        ImageDataset(images, labels + 2, ("a", "b"))
    with pytest.raises(DataError, match="without labels"):
        ImageDataset(images, None, ("a",))
    with pytest.raises(ValueError, match="skipped must be at least 0"):
        ImageDataset(images, skipped=-1)


@pytest.mark.parametrize(("count", "limit"), [(10, 3), (10, 10), (10, 99), (5, 1), (10, None)])
def test_spread(count: int, limit: int | None) -> None:
    indices = spread(count, limit)
    assert len(indices) == min(count, limit or count)
    assert indices == sorted(set(indices))
    assert indices[0] == 0
    assert indices[-1] < count
    gaps = {b - a for a, b in pairwise(indices)}
    assert not gaps or max(gaps) - min(gaps) <= 1
