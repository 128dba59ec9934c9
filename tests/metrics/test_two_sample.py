"""Distances of samples of numbers, and the classifier two-sample test."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import wasserstein_distance

from fastgan.metrics import area_under_curve, two_sample_auc, wasserstein


def test_the_distance_is_scipys():
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(50, generator=rng), 2 * torch.randn(71, generator=rng) + 1
    assert wasserstein(a, b) == pytest.approx(wasserstein_distance(a, b), rel=1e-6)
    assert wasserstein(a, a.flip(0)) == 0
    assert wasserstein(a, a + 3) == pytest.approx(3, rel=1e-5)
    with pytest.raises(ValueError, match=r"second must be finite numbers \[N\]"):
        wasserstein(a, b * float("inf"))


def test_the_area_counts_pairs():
    scores = torch.tensor([3.0, 1.0, 2.0, 2.0, 0.0])
    positive = torch.tensor([True, False, True, False, False])
    pairs = [(s > t) + (s == t) / 2 for s in (3, 2) for t in (1, 2, 0)]
    assert area_under_curve(scores, positive) == pytest.approx(sum(pairs) / 6)


def test_a_classifier_tells_what_differs_and_only_that():
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 400, 6, generator=rng).unbind()
    state = torch.get_rng_state()
    assert 0.4 < two_sample_auc(a, b, epochs=3) < 0.6
    assert two_sample_auc(a, b + 1, epochs=3) > 0.85
    assert torch.equal(state, torch.get_rng_state())
    assert two_sample_auc(a, b, epochs=1) == two_sample_auc(a, b, epochs=1)
