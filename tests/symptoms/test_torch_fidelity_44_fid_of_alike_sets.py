"""torch-fidelity#44, TTUR#43, BigGAN-PyTorch#49: FID of a set and itself, of a collapsed generator.

Singular covariances gave numbers below zero, complex ones or NaN.
Right: 0 for one set, and |μ - μ'|² + tr Σ where all fakes are alike, whatever the number of images.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastgan.metrics.distribution import FrechetDistance

pytest.importorskip("torchmetrics", reason="FID is torchmetrics'")


def fid(real: Tensor, fake: Tensor) -> float:
    metric = FrechetDistance(real.shape[1])
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return metric.compute()


@pytest.mark.parametrize("count", [8, 500])  # fewer than the features, and more
def test_sets_without_full_rank(count: int) -> None:
    real = torch.randn(count, 16, dtype=torch.float64)
    assert 0 <= fid(real, real.clone()) < 1e-6
    collapsed = (real[:1] + 1).expand(count, -1)
    expected = (real.mean(0) - collapsed[0]).square().sum() + real.var(0).sum()
    assert fid(real, collapsed) == pytest.approx(float(expected), rel=1e-6)
