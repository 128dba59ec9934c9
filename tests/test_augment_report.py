"""tools/augment_report: its page is made of its results, and what it does to images and labels."""

from __future__ import annotations

import pytest
import torch

from fastgan.data import ImageDataset
from tools import augment_report as report


def labelled(per_class: int, classes: int = 3) -> ImageDataset:
    labels = torch.arange(classes).repeat_interleave(per_class)
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (len(labels), 1, 28, 28), dtype=torch.uint8, generator=rng)
    return ImageDataset(images, labels, tuple("abc"[:classes]), name="letters")


def test_the_page_is_made_from_the_results():
    results = report.read()
    text = report.PAGE.read_text(encoding="utf-8")
    assert report.renew(text, results) == text
    for by_count in results.values():
        assert [*by_count] == [str(count) for count in report.COUNTS]
        assert len({len(by_seed) for by_seed in by_count.values()}) == 1


def test_a_row_has_means_deviations_and_the_best():
    ways = dict.fromkeys(report.WAYS, 0.5)
    by_seed = {"0": {**ways, "none": 0.6}, "1": {**ways, "none": 0.8}}
    row = report.render({"letters": {"5": by_seed}}).splitlines()[4]
    assert row.startswith("| 5 | 2 | **70.0** ± 14.1 | 50.0 ± 0.0 |")


def test_few_are_drawn_of_each_class():
    data = labelled(6)
    chosen = report.few(data, 4, seed=1)
    assert chosen.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert not chosen.images.equal(report.few(data, 4, seed=2).images)
    assert chosen.images.equal(report.few(data, 4, seed=1).images)
    without = data.select(torch.arange(12))
    with pytest.raises(ValueError, match="letters: class 2 has 0 labelled images, and 4 are asked"):
        report.few(without, 4, seed=0)


def test_moved_images_stay_near():
    torch.manual_seed(0)
    image = torch.full((64, 1, 28, 28), -1.0)
    image[:, :, 10:18, 10:18] = 1.0
    moved = report.moved(image, mirrored=False)
    assert -1 <= moved.min() <= moved.max() <= 1
    assert (moved[:, :, :3] < -0.999).all()  # what comes in is background
    mass = (moved + 1).sum((1, 2, 3)) / (image + 1).sum((1, 2, 3))
    assert 0.75 < mass.min() < mass.max() < 1.3
    side = torch.linspace(-1, 1, 28).expand(64, 1, 28, 28)
    flipped = report.moved(side, mirrored=True)[:, 0, 14, 20] < 0
    assert 10 < flipped.sum() < 54


def test_samples_come_of_the_labelled_images_alone(tmp_path, monkeypatch):
    monkeypatch.setitem(report.GAN, "steps", 1)
    monkeypatch.setattr(report, "PER_CLASS", 2)
    monkeypatch.setattr(report, "UPDATES", 30)
    data = ImageDataset(labelled(4, 3).images.repeat(3, 1, 1, 1)[:32], torch.arange(32) % 10)
    made = report.samples_of(data, 0, tmp_path)
    assert [len(made[name]) for name in ("samples", "filtered")] == [20, 20]
    assert made["samples"].labels.bincount().tolist() == [2] * 10
    found = report.accuracy(data, made["samples"], data, classical=True, mirrored=True, seed=0)
    assert 0 <= found <= 1
