from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial.distance import jensenshannon

from fastgan.metrics import jensen_shannon, ngram_counts


def test_counts_do_not_cross_windows():
    numbers, counts = ngram_counts(torch.tensor([[0, 1, 0], [1, 0, 1]]), 2, 3)
    assert dict(zip(numbers.tolist(), counts.tolist(), strict=True)) == {1: 2, 3: 2}


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_divergence_is_scipys(n):
    first = torch.randint(0, 3, (20, 6), generator=torch.Generator().manual_seed(0))
    second = torch.randint(0, 2, (15, 6), generator=torch.Generator().manual_seed(1))
    shares = torch.zeros(2, 3**n, dtype=torch.float64)
    for row, codes in zip(shares, (first, second), strict=True):
        numbers, counts = ngram_counts(codes, n, 3)
        row[numbers] = counts.double()
    expected = jensenshannon(*shares.numpy(), base=2) ** 2
    assert jensen_shannon(first, second, n, 3) == pytest.approx(expected, rel=1e-9)


def test_its_ends():
    ones, twos = torch.full((4, 5), 1), torch.full((4, 5), 2)
    assert jensen_shannon(ones, ones, 2, 3) == 0
    assert math.isclose(jensen_shannon(ones, twos, 2, 3), 1)


@pytest.mark.parametrize(
    ("codes", "n", "size", "message"),
    [
        (torch.zeros(2, 3, dtype=torch.long), 4, 2, r"n must lie in 1\.\.3, a window's length"),
        (torch.full((2, 3), 2), 1, 2, r"codes must be \[N, L\] of 0\.\.1"),
        (torch.zeros(2, 9, dtype=torch.long), 8, 256, "8-grams of 256 characters have no number"),
    ],
)
def test_what_cannot_be_counted(codes, n, size, message):
    with pytest.raises(ValueError, match=message):
        ngram_counts(codes, n, size)
