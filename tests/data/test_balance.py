"""Classes of few images are drawn more often where that is asked for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from fastgan.data import ImageDataset, load, make_loader, stream
from fastgan.data.order import Order
from fastgan.engine import TrainConfig, Trainer
from fastgan.models import create_model

LABELS = torch.tensor([0] * 90 + [1] * 9 + [5])


def drawn(balance: float, epoch: int = 0) -> torch.Tensor:
    return Order(100, "set", 10, 0, labels=LABELS, balance=balance).draw(epoch)[0]


@pytest.mark.parametrize(
    ("balance", "expected"),
    [(1.0, {0: 34, 1: 33, 5: 33}), (0.5, {0: 70, 1: 22, 5: 8}), (0.0, {0: 90, 1: 9, 5: 1})],
)
def test_how_often_each_class_comes(balance: float, expected: dict[int, int]) -> None:
    order = drawn(balance)
    assert dict(Counter(LABELS[order].tolist())) == expected
    counts = torch.bincount(order, minlength=100)
    for label in (0, 1, 5):  # none comes again before all of its class have come
        own = counts[label == LABELS]
        assert own.max() - own.min() <= 1
    assert torch.equal(order, drawn(balance))
    assert not torch.equal(order, drawn(balance, epoch=1))
    assert LABELS[order[:50]].unique().numel() == 3 or balance == 0  # mixed, not in turn


def test_a_set_in_memory_and_a_stream_draw_alike(tmp_path: Path) -> None:
    for i in range(9):
        path = tmp_path / ("rare" if i == 8 else "usual") / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (2, 2), 20 * i).save(path)
    batches = [
        opened(tmp_path).batches(8, seed=1, device="cpu", balance=1.0).batch(3)
        for opened in (load, stream)
    ]
    assert torch.equal(batches[0][0], batches[1][0])
    assert torch.equal(batches[0][1], batches[1][1])
    assert batches[0][1].float().mean().item() == pytest.approx(0.5, abs=0.13)
    plain = make_loader(load(tmp_path), 8, 1, "cpu").batch(3)
    assert plain[1].float().mean() > 0.8


def test_bad_input(tmp_path: Path) -> None:
    images = torch.zeros(8, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"balance must lie in \[0, 1\], got 2"):
        TrainConfig(balance=2)
    networks = [
        create_model(f"dcgan_{part}", image_size=8, channels=1, width=4)
        for part in ("generator", "discriminator")
    ]
    config = TrainConfig(batch_size=4, balance=1.0)
    with pytest.raises(ValueError, match="balance needs a class for each image, and plain has non"):
        Trainer(*networks, ImageDataset(images, name="plain"), config)
    with pytest.raises(ValueError, match="balance needs all classes beforehand"):
        Trainer(*networks, [(image, 0) for image in images], config)
    with pytest.raises(ValueError, match="balance cannot draw from shards"):
        Order(100, "set", 10, 0, labels=LABELS, balance=1.0, shards=(50, 50))
