"""How far two sets of features are apart along random directions: a distance for few images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan.checks import check_int
from fastgan.metrics.prdc import checked_pair

# Directions whose projections are sorted at a time.
_AT_ONCE = 100


def sliced_distance(real: Tensor, fake: Tensor, *, directions: int = 1000, seed: int = 0) -> float:
    """D times the mean over directions θ of the squared Wasserstein distance of θ·x and θ·y.

    x are features [N, D] of real images and y those of generated ones [M, D]. Of distributions that
    differ by a shift δ it is |δ|², as FID is. It takes no covariance: two sets of one distribution
    have above 0, too, but far less than FID has where images are few, and it sees what means and
    covariances do not. Along a direction the distance is that of the sorted values, for sets of any
    sizes exactly.

    Args:
        directions: unit vectors, drawn evenly from the sphere by `seed`.

    Computes in float64. Raises ValueError for empty sets or widths that differ.
    Source: the distance of Berthet et al. 2026, "MIND: Monge Inception Distance" (2605.06797), with
    this factor D.
    """
    check_int("directions", directions, 1)
    real, fake = checked_pair(real, fake)
    if not len(real) or not len(fake):
        raise ValueError(f"sliced: features of both kinds are needed, got {len(real)}, {len(fake)}")
    rng = torch.Generator().manual_seed(seed)
    drawn = torch.randn(directions, real.shape[1], generator=rng, dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64)
    for part in F.normalize(drawn.to(real.device)).split(_AT_ONCE):
        x, y = ((part @ side.mT).sort(1).values for side in (real, fake))
        total += _squares(x, y).sum().cpu()
    return float(total) * real.shape[1] / directions


def _squares(x: Tensor, y: Tensor) -> Tensor:
    """∫ (F⁻¹ - G⁻¹)² of sorted values [K, N] and [K, M]: [K]."""
    n, m = x.shape[1], y.shape[1]
    if n == m:
        return (x - y).square().mean(1)
    # Both quantile functions are constant between these, in parts of 1 / (n m).
    ends = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique()
    starts = F.pad(ends[:-1], (1, 0))
    share = ((ends - starts).double() / (n * m)).to(x.device)
    return (x[:, starts // m] - y[:, starts // n]).square() @ share
