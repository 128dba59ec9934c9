"""Tile-pattern KL divergence, against sums written out."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from fastgan.metrics import pattern_divergence


def by_hand(a, b, size: int) -> float:
    def counts(maps) -> Counter:
        found = Counter()
        for m in maps.tolist():
            for y in range(len(m) - size + 1):
                for x in range(len(m[0]) - size + 1):
                    found[tuple(tuple(row[x : x + size]) for row in m[y : y + size])] += 1
        return found

    p, q = counts(a), counts(b)
    kinds = p.keys() | q.keys()
    n, m = p.total(), q.total()
    whole = 1 + 1e-6 * len(kinds)
    shares = [((p[k] / n + 1e-6) / whole, (q[k] / m + 1e-6) / whole) for k in kinds]
    return sum((s - t) * math.log(s / t) for s, t in shares) / 2


@pytest.mark.parametrize("size", [1, 2, 3])
def test_it_is_the_sum_over_patterns(size):
    rng = torch.Generator().manual_seed(0)
    a = torch.randint(0, 3, (5, 6, 7), generator=rng)
    b = torch.randint(0, 2, (4, 5, 5), generator=rng)
    assert pattern_divergence(a, b, size, 3) == pytest.approx(by_hand(a, b, size), rel=1e-9)
    assert pattern_divergence(a, a.flip(0), size, 3) == 0


def test_what_does_not_fit_is_told():
    maps = torch.zeros(1, 2, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"maps must be \[N, H, W\] of sides of at least 3"):
        pattern_divergence(maps, maps, 3, 2)
    with pytest.raises(ValueError, match="5x5 patterns of 7 tiles are too many to number"):
        pattern_divergence(maps, maps, 5, 7)
