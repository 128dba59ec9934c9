"""How alike are two sets of tile maps, by the small patterns that they are made of?"""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.checks import check_int


def pattern_divergence(
    real: Tensor, fake: Tensor, size: int, tiles: int, *, pseudocount: float = 1e-6
) -> float:
    """The tile-pattern KL divergence of maps, in nats: 0 for the same patterns as often.

    The mean of KL(real ‖ fake) and KL(fake ‖ real) of the shares of all `size` x `size` patterns
    that occur in either set; of both counts, `pseudocount` times their sum is added to each
    pattern's, so that a pattern of one set alone counts as very rare in the other.

    Args:
        real, fake: numbers of tiles below `tiles`, int64 [N, H, W] and [M, H', W'].

    Raises ValueError for maps smaller than a pattern, or patterns too many to number.
    Source: Lucas, Volz 2019, "Tile Pattern KL-Divergence for Analysing and Evolving Game Levels"
    (arXiv:1905.05077).
    """
    check_int("size", size, 1)
    if tiles ** (size * size) >= 2**63:
        raise ValueError(f"size: {size}x{size} patterns of {tiles} tiles are too many to number")
    found = [_patterns(maps, size, tiles) for maps in (real, fake)]
    _, kinds = torch.cat(found).unique(return_inverse=True)
    parts = kinds.split([len(part) for part in found])
    length = int(kinds.max()) + 1
    counts = [torch.bincount(part, minlength=length).double() for part in parts]
    shares = [(n + pseudocount * n.sum()) / (n.sum() * (1 + pseudocount * length)) for n in counts]
    p, q = shares
    return float(((p - q) * (p / q).log()).sum() / 2)


def _patterns(maps: Tensor, size: int, tiles: int) -> Tensor:
    """A number for each pattern of all maps: its tiles as digits."""
    if maps.dim() != 3 or min(maps.shape[1:]) < size:
        raise ValueError(f"maps must be [N, H, W] of sides of at least {size}, got {maps.shape}")
    windows = maps.unfold(1, size, 1).unfold(2, size, 1).flatten(-2)
    return (windows * tiles ** torch.arange(size * size)).sum(-1).flatten()
