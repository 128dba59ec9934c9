"""From images to scores."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fastgan.data import ImageDataset
from fastgan.metrics import FeatureNetwork, Options, evaluate, real_statistics
from fastgan.metrics.distribution import FrechetDistance

from .test_features import make_pixels

pytestmark = pytest.mark.usefixtures("own_statistics")

SMALL = Options(kid_subsets=4, batch_size=16, splits=2)


def reals(count: int = 100, seed: int = 0, size: int = 8) -> ImageDataset:
    rng = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 1, size, size), dtype=torch.uint8, generator=rng)
    return ImageDataset(images=images, name="noise")


def fakes(count: int = 80, seed: int = 1) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_scores_carry_their_setting():
    network, data = make_pixels(), reals()
    metrics = ("fid", "kid", "sliced", "is", "prdc", "nearest", "classes")
    scores = evaluate(fakes().split(30), data, network, metrics, SMALL, setting={"seed": 7})
    by_name = {score.metric: score for score in scores}
    assert list(by_name) == [
        "fid", "kid", "sliced", "precision", "recall", "density", "coverage",
        "authentic", "nearest", "nearest_real", "is", "confident", "classes",
    ]  # fmt: skip
    fid = by_name["fid"]
    assert fid.setting == {
        "features": "pixels", "features_sha256": network.digest,
        "resize": "8x8 bilinear antialiased", "fakes": 80, "seed": 7, "reals": 100,
        "data": "noise", "data_sha256": data.fingerprint(),
    }  # fmt: skip
    assert by_name["kid"].setting["subset_size"] == 80
    assert by_name["sliced"].setting["directions"] == 1000
    assert by_name["is"].setting["splits"] == 2
    assert by_name["classes"].value == 2
    direct = FrechetDistance(64)
    direct.update(data.images.float().flatten(1) / 127.5 - 1, real=True)
    direct.update(fakes().flatten(1), real=False)
    assert fid.value == pytest.approx(direct.compute(), rel=1e-9)
    few = evaluate([fakes(50)], data, network, ("fid",))[0]
    assert "biased upwards: 50 images for 64 features" in few.note


def test_the_batches_of_the_fakes_do_not_matter():
    network, data = make_pixels(), reals()
    whole, parts = (
        evaluate(batches, data, network, ("fid", "kid"), SMALL)
        for batches in ([fakes()], fakes().split(7))
    )
    for one, other in zip(whole, parts, strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-9)


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return images.flatten(1)


def test_real_statistics_are_kept_by_content(tmp_path):
    network = FeatureNetwork("counting", Counting(), 1, 8, classes=False)
    first = real_statistics(reals(), network, keep_features=False)
    assert network.module.seen == 100
    again = real_statistics(reals(), network, keep_features=False)
    assert network.module.seen == 100
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert first["features_sum"].dtype == torch.float64
    real_statistics(reals(seed=3), network, keep_features=False)
    assert network.module.seen == 200
    for file in (tmp_path / "statistics").iterdir():
        file.write_bytes(b"torn")
    mended = real_statistics(reals(), network, keep_features=False)
    assert network.module.seen == 300
    assert torch.equal(mended["features_sum"], first["features_sum"])


def test_labels_that_were_asked_for():
    network = make_pixels()
    images = torch.zeros(4, 1, 8, 8)
    images[:, 0, 0, 0] = torch.tensor([1.0, 1, -1, -1])
    labels = torch.tensor([0, 0, 1, 0])
    scores = evaluate([images], None, network, ("classes",), labels=labels)
    assert {s.metric: s.value for s in scores} == {"confident": 1, "classes": 2, "accuracy": 0.75}
    with pytest.raises(ValueError, match=r"labels must be \[4\], one a fake, got \[3\]"):
        evaluate([images], None, network, ("classes",), labels=labels[:3])


@pytest.mark.parametrize(
    ("batches", "data", "metrics", "message"),
    [
        ([fakes()], reals(), ("fidd",), "unknown metric 'fidd': there are fid, kid"),
        ([fakes()], None, ("fid",), "fid compares with real images: reals is None"),
        ([fakes()], reals(size=16), ("fid",), r"got \[1, 8, 8\] and \[1, 16, 16\]: load the real"),
        ([fakes().expand(-1, 3, -1, -1)], reals(), ("fid",), "one size and number of channels"),
        ([], reals(), ("fid",), "fakes: there must be at least one image"),
        ([fakes() * float("nan")], reals(), ("fid",), "80 of 80 images have pixels that are NaN"),
        (
            [fakes(1)],
            reals(),
            ("kid",),
            "kid needs at least 2 images of each kind, got 1",
        ),
        ([fakes(1)], reals(), ("prdc",), "prdc needs at least 2 images of each kind, got 1"),
    ],
)
def test_what_cannot_be_measured_is_told(batches, data, metrics, message):
    with pytest.raises(ValueError, match=message):
        evaluate(batches, data, make_pixels(), metrics)


def test_a_network_without_classes_has_no_inception_score():
    network = FeatureNetwork("counting", Counting(), 1, 8, classes=False)
    with pytest.raises(ValueError, match="is needs a network with classes, counting has none"):
        evaluate([fakes()], None, network, ("is",))
