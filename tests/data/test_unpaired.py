"""Two sets without pairs as one: each in an order of its own."""

from __future__ import annotations

import pytest
import torch

from fastgan.data import DataError, ImageDataset, Source, Unpaired


def numbered(count: int, first: int = 0, channels: int = 1) -> ImageDataset:
    values = torch.arange(first, first + count, dtype=torch.uint8)
    return ImageDataset(values.view(-1, 1, 1, 1).expand(-1, channels, 4, 8).contiguous())


def numbers(images: torch.Tensor) -> tuple[list[int], list[int]]:
    values = ((images[:, :, 0, 0] + 1) * 127.5).round().int()
    return values[:, 0].tolist(), values[:, 1].tolist()


def test_each_set_has_its_own_order_and_epochs():
    both = Unpaired(numbered(12), numbered(7, 100))
    assert isinstance(both, Source)
    assert both.shape == (12, 2, 4, 8)
    loader = both.batches(3, 5, "cpu")
    met = [numbers(loader.gather(*loader.rows(step))[0]) for step in range(8)]
    first, second = ([n for part in half for n in part] for half in zip(*met, strict=True))
    assert sorted(first[:12]) == sorted(first[12:]) == list(range(12))
    for epoch in range(4):  # two batches of three an epoch
        assert len(set(second[6 * epoch : 6 * epoch + 6])) == 6
        assert min(second) >= 100
    again = both.batches(3, 5, "cpu")
    assert numbers(again.gather(*again.rows(6))[0]) == met[6]


def test_sets_of_one_count_do_not_meet_by_their_places():
    loader = Unpaired(numbered(12), numbered(12)).batches(12, 0, "cpu")
    first, second = numbers(loader.gather(*loader.rows(0))[0])
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 6


def test_processes_share_a_batch():
    both = Unpaired(numbered(12), numbered(9, 100))
    whole = both.batches(4, 0, "cpu")
    parts = [both.batches(2, 0, "cpu", rank=rank, world_size=2) for rank in range(2)]
    images = torch.cat([part.gather(*part.rows(4))[0] for part in parts])
    assert torch.equal(images, whole.gather(*whole.rows(4))[0])


def test_some_images_and_the_fingerprint():
    both = Unpaired(numbered(12), numbered(5, 100))
    assert both.some(8).shape == (5, 2, 4, 8)
    assert both.some(8).min() >= -1
    assert both.fingerprint() == Unpaired(numbered(12), numbered(5, 100)).fingerprint()
    assert both.fingerprint() != Unpaired(numbered(5, 100), numbered(12)).fingerprint()


def test_sets_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match=r"one shape, got \[1, 4, 8\] of .* and \[3, 4, 8\]"):
        Unpaired(numbered(4), numbered(4, channels=3))
    with pytest.raises(ValueError, match=r"batch_size 4 is larger than the data: .* has 3"):
        Unpaired(numbered(9), numbered(3)).batches(4, 0, "cpu")
