"""Are generated images copies of those that were trained on?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastgan.metrics.prdc import checked_pair, distances


class Nearest(NamedTuple):
    """authentic: a share; fake and real: mean distances to the nearest real feature."""

    authentic: float
    fake: float
    real: float


def nearest_real(real: Tensor, fake: Tensor, *, rows: int = 1024) -> Nearest:
    """Of features [N, D] of the images that were trained on, N ≥ 2, and of generated ones [M, D].

    authentic  share of fakes that are farther from the nearest real feature than that one is from
               its own nearest other
    fake       mean distance of a fake to the nearest real feature
    real       mean distance of a real feature to the nearest other: of copies `fake` is far below

    Fakes that are like no real image are authentic, too: it says nothing of quality.

    Args:
        rows: distances are computed for so many fakes at a time.

    Computes in float64. Raises ValueError for too few features or widths that differ.
    Source: Alaa et al. 2022, "How Faithful is your Synthetic Data?" (arXiv:2102.08921), in the
    features as they are.
    """
    real, fake = checked_pair(real, fake)
    if len(real) < 2 or len(fake) < 1:
        raise ValueError(
            f"nearest: two real features and a fake are needed, got {len(real)} and {len(fake)}"
        )
    apart = torch.cat([distances(p, real).kthvalue(2, dim=1).values for p in real.split(rows)])
    near, which = zip(*(distances(part, real).min(1) for part in fake.split(rows)), strict=True)
    distance = torch.cat(near)
    authentic = distance > apart[torch.cat(which)]
    return Nearest(authentic.double().mean().item(), distance.mean().item(), apart.mean().item())
