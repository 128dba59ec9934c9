"""Precision, recall, density and coverage of generated features among real ones."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class PRDC(NamedTuple):
    """Each a share, but for density, which may exceed 1."""

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(real: Tensor, fake: Tensor, *, neighbours: int = 5, rows: int = 1024) -> PRDC:
    """Of features [N, D] and [M, D].

    With the ball around each feature that reaches to its k-th nearest neighbour of the same set:

    precision  share of fakes in a ball of a real feature
    recall     share of real features in a ball of a fake
    density    mean number of real balls that a fake lies in, over k
    coverage   share of real balls that hold a fake

    Args:
        neighbours: k, below N and M.
        rows: distances are computed for so many features at a time: memory is rows · max(N, M).

    Computes in float64. Raises ValueError for too few features or widths that differ.
    Sources: Kynkäänniemi et al. 2019 (arXiv:1904.06991), Naeem et al. 2020 (arXiv:2002.09797).
    """
    real, fake = checked_pair(real, fake)
    fewest = at_least_two("prdc", len(real), len(fake))
    if not 1 <= neighbours < fewest:
        raise ValueError(f"prdc: neighbours must lie in 1..{fewest - 1}, got {neighbours}")
    real_radius, fake_radius = (_radii(x, neighbours, rows) for x in (real, fake))
    in_real_ball = torch.zeros(len(fake), dtype=torch.int64, device=fake.device)
    recalled, covered = [], []
    for part, radius in zip(real.split(rows), real_radius.split(rows), strict=True):
        distance = distances(part, fake)
        inside = distance <= radius[:, None]
        in_real_ball += inside.sum(0)
        recalled.append((distance <= fake_radius).any(1))
        covered.append(inside.any(1))
    return PRDC(
        (in_real_ball > 0).double().mean().item(),
        torch.cat(recalled).double().mean().item(),
        in_real_ball.double().mean().item() / neighbours,
        torch.cat(covered).double().mean().item(),
    )


def at_least_two(metric: str, real: int, fake: int) -> int:
    """The smaller of the two counts; ValueError for one image of a kind, or none."""
    if (fewest := min(real, fake)) < 2:
        raise ValueError(f"{metric} needs at least 2 images of each kind, got {fewest}")
    return fewest


def checked_pair(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Features in float64, or ValueError if they are not [N, D] and [M, D]."""
    if real.dim() != 2 or fake.dim() != 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(
            "real and fake must be [N, D] and [M, D], got "
            f"{list(real.shape)} and {list(fake.shape)}"
        )
    return real.double(), fake.double()


def distances(x: Tensor, y: Tensor) -> Tensor:
    """[N, M] of [N, D] and [M, D]."""
    # Not by the expanded square, which cancels for near neighbours.
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _radii(features: Tensor, neighbours: int, rows: int) -> Tensor:
    """The distance of each feature to its k-th nearest neighbour, itself left out."""
    parts = [
        distances(part, features).kthvalue(neighbours + 1, dim=1).values
        for part in features.split(rows)
    ]
    return torch.cat(parts)
