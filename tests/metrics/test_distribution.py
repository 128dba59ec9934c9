"""Distances against scipy and against values known beforehand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import linalg, spatial
from torch import Tensor

from fastgan.metrics import nearest_real, prdc, sliced_distance
from fastgan.metrics.distribution import FrechetDistance, inception_score, kernel_distance

RNG = np.random.default_rng(0)


def features(count: int, width: int = 6, shift: float = 0.0) -> Tensor:
    mixing = np.eye(width) + 0.3 * RNG.normal(size=(width, width))
    return torch.from_numpy(RNG.normal(size=(count, width)) @ mixing + shift)


def fid(real: Tensor, fake: Tensor, parts: int = 3) -> float:
    metric = FrechetDistance(real.shape[1])
    for x, is_real in ((real, True), (fake, False)):
        for part in x.chunk(parts):
            metric.update(part, real=is_real)
    return metric.compute()


def test_fid_is_scipys():
    real, fake = features(300), features(200, shift=0.5)
    root = linalg.sqrtm(np.cov(real.T) @ np.cov(fake.T)).real
    expected = ((real.mean(0) - fake.mean(0)) ** 2).sum().item()
    expected += np.trace(np.cov(real.T) + np.cov(fake.T) - 2 * root)
    assert fid(real, fake) == pytest.approx(expected, rel=1e-9)


def test_fid_of_a_shifted_set_is_the_square_of_the_shift():
    real = features(100)
    assert fid(real, real) == pytest.approx(0, abs=1e-9)
    assert fid(real, real + torch.tensor([3.0, 4, 0, 0, 0, 0])) == pytest.approx(25, rel=1e-9)
    # Far from zero float32 sums of squares would cancel to nothing.
    far = (real.float() + 1000).double()
    assert fid(far, far + 2) == pytest.approx(24, rel=1e-4)


def test_fid_keeps_statistics_and_says_when_they_are_few():
    real, fake = features(300), features(200)
    first = FrechetDistance(6)
    first.update(real, real=True)
    second = FrechetDistance(6)
    second.set_real_statistics(first.real_statistics())
    second.update(fake, real=False)
    assert second.compute() == fid(real, fake, parts=1)
    assert second.note(7) == ""
    assert "biased upwards: 6 images for 6 features" in second.note(6)
    with pytest.raises(ValueError, match="fid needs at least 2 images of each kind, got 1"):
        fid(real[:1], fake, parts=1)


def test_kid_is_the_unbiased_estimate():
    x, y = features(40), features(40, shift=0.3)
    a, b = x.numpy(), y.numpy()

    def kernel(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        return (p @ q.T / 6 + 1) ** 3

    m = len(a)
    within = sum(k.sum() - np.trace(k) for k in (kernel(a, a), kernel(b, b))) / (m * (m - 1))
    expected = within - 2 * kernel(a, b).mean()
    value, deviation = kernel_distance(x, y, subsets=3, subset_size=40)
    assert value == pytest.approx(expected, rel=1e-9)
    assert deviation == pytest.approx(0, abs=1e-9)
    again = [kernel_distance(x, y, subsets=3, subset_size=20, seed=s)[0] for s in (0, 0, 1)]
    assert again[0] == again[1] != again[2]
    with pytest.raises(ValueError, match=r"subset_size must lie in 2..40, the images, got 1000"):
        kernel_distance(x, y)


def test_inception_score_lies_between_one_and_the_number_of_classes():
    sure = 1e3 * torch.eye(5).repeat(20, 1)
    assert inception_score(sure, splits=1)[0] == pytest.approx(5, rel=1e-6)
    assert inception_score(torch.zeros(100, 5), splits=10) == pytest.approx((1, 0), abs=1e-9)
    with pytest.raises(ValueError, match="is: 10 splits need as many images at least, got 4"):
        inception_score(sure[:4])


def test_inception_score_is_the_formula():
    logits = torch.randn(50, 4, dtype=torch.float64)
    p = logits.softmax(1)
    expected = math.exp((p * (p / p.mean(0)).log()).sum(1).mean().item())
    assert inception_score(logits, splits=1)[0] == pytest.approx(expected, rel=1e-9)


def test_inception_score_has_the_splits_that_were_asked_for():
    logits = torch.randn(12, 4, dtype=torch.float64)
    p = logits.softmax(1)[torch.randperm(12, generator=torch.Generator().manual_seed(3))]
    parts = [p[i * 12 // 5 : (i + 1) * 12 // 5] for i in range(5)]
    assert [len(q) for q in parts] == [2, 2, 3, 2, 3]
    scores = [math.exp((q * (q / q.mean(0)).log()).sum(1).mean().item()) for q in parts]
    expected = (np.mean(scores), np.std(scores, ddof=1))
    assert inception_score(logits, splits=5, seed=3) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("rows", [7, 1024])
def test_prdc_is_the_definition(rows):
    real, fake, k = features(30, 3), features(25, 3, shift=0.8), 3
    cross = spatial.distance.cdist(real, fake)

    def radii(x: Tensor) -> np.ndarray:
        return np.sort(spatial.distance.cdist(x, x), axis=1)[:, k]

    inside, recalled = cross <= radii(real)[:, None], cross <= radii(fake)[None]
    expected = (
        inside.any(0).mean(), recalled.any(1).mean(), inside.sum() / k / 25, inside.any(1).mean(),
    )  # fmt: skip
    assert prdc(real, fake, neighbours=k, rows=rows) == pytest.approx(expected)
    assert 0 < expected[0] < 1


def test_prdc_of_equal_and_of_distant_sets():
    real = features(30, 3)
    same = prdc(real, real)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    assert prdc(real, real + 1000) == (0, 0, 0, 0)
    with pytest.raises(ValueError, match=r"neighbours must lie in 1..4, got 5"):
        prdc(real[:5], real)
    with pytest.raises(ValueError, match=r"must be \[N, D\] and \[M, D\]"):
        prdc(real, real[:, :2])


@pytest.mark.parametrize("rows", [3, 1024])
def test_nearest_is_the_definition(rows):
    real, fake = features(20), features(9)
    between = spatial.distance.cdist(fake, real)
    others = spatial.distance.cdist(real, real) + np.diag([np.inf] * 20)
    near, apart = between.min(1), others.min(1)
    found = nearest_real(real, fake, rows=rows)
    authentic = (near > apart[between.argmin(1)]).mean()
    assert found == pytest.approx((authentic, near.mean(), apart.mean()))


def test_copies_are_told_from_images_of_their_own():
    real = features(30)
    assert nearest_real(real, real.flip(0)).authentic == 0
    assert nearest_real(real, real + 1e-3).authentic == 0
    assert nearest_real(real, real + 1000).authentic == 1
    with pytest.raises(ValueError, match="two real features and a fake are needed, got 1 and 30"):
        nearest_real(real[:1], real)
    with pytest.raises(ValueError, match=r"must be \[N, D\] and \[M, D\]"):
        nearest_real(real, real[:, :2])


def gaussian(count: int, width: int, deviation: float, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return deviation * torch.randn(count, width, generator=rng, dtype=torch.float64)


def test_the_sliced_distance_of_gaussians_is_known():
    """D E (θ·δ)² + D (σ - σ')², of directions θ: |δ|² + D (σ - σ')², as FID has it."""
    real = gaussian(4000, 8, 1.0, seed=0)
    shift = torch.zeros(8, dtype=torch.float64)
    shift[:2] = torch.tensor([3.0, 4.0])
    # A shift of the very same set is exact but for the directions: E (θ·δ)² of 1,000.
    assert sliced_distance(real, real + shift) == pytest.approx(25, rel=0.1)
    assert sliced_distance(real, real + shift, seed=1) != sliced_distance(real, real + shift)
    wide = gaussian(4000, 8, 2.0, seed=1)
    # Of 4,000 images the deviation along a direction is known to 1 or 2 %: (σ - σ')² to 5 %.
    assert sliced_distance(real, wide) == pytest.approx(8, rel=0.05)
    assert sliced_distance(real, real) == 0


def test_the_sliced_distance_needs_few_images():
    """Of one distribution both are above 0, this one far less where features outnumber images."""
    real, fake = gaussian(100, 200, 1.0, seed=0), gaussian(100, 200, 1.0, seed=1)
    assert 0 < sliced_distance(real, fake) < fid(real, fake) / 4


@pytest.mark.parametrize(("n", "m"), [(30, 30), (30, 50), (7, 64), (1, 9)])
def test_along_a_line_it_is_the_squared_wasserstein_distance(n, m):
    """By its definition: the quantile functions at a fine and even grid of levels."""
    x, y = gaussian(n, 1, 1.0, seed=3), gaussian(m, 1, 1.5, seed=4) + 1
    at = (np.arange(n * m) + 0.5) / (n * m)
    quantiles = (np.sort(v.numpy()[:, 0])[(at * len(v)).astype(int)] for v in (x, y))
    first, second = quantiles
    expected = ((first - second) ** 2).mean()
    assert sliced_distance(x, y, directions=3) == pytest.approx(expected, rel=1e-9)


def test_what_has_no_sliced_distance_is_told():
    one = features(4)
    with pytest.raises(ValueError, match=r"real and fake must be \[N, D\] and \[M, D\]"):
        sliced_distance(one, features(4, width=5))
    with pytest.raises(ValueError, match="sliced: features of both kinds are needed, got 4, 0"):
        sliced_distance(one, one[:0])
    with pytest.raises(ValueError, match="directions must be at least 1, got 0"):
        sliced_distance(one, one, directions=0)
