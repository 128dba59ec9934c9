"""How near the n-grams of generated text are to those of real text."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def ngram_counts(codes: Tensor, n: int, size: int) -> tuple[Tensor, Tensor]:
    """The n-grams in windows [N, L] of codes below `size`, and how often each occurs: int64 [K].

    An n-gram is numbered by its codes as digits of base `size`.

    Raises:
        ValueError: n is not in 1..L, a code out of range, or numbers beyond 64 bits.
    """
    if not 1 <= n <= codes.shape[1]:
        raise ValueError(f"n must lie in 1..{codes.shape[1]}, a window's length, got {n}")
    if codes.numel() == 0 or int(codes.min()) < 0 or int(codes.max()) >= size:
        got = f"{int(codes.min())}..{int(codes.max())}" if codes.numel() else "no value"
        raise ValueError(
            f"codes must be [N, L] of 0..{size - 1}, with no zero, got {list(codes.shape)}: {got}"
        )
    if size**n >= 2**63:
        raise ValueError(
            f"{n}-grams of {size} characters have no number of 64 bits: n must be smaller"
        )
    digits = size ** torch.arange(n - 1, -1, -1)
    numbers = (codes.long().unfold(1, n, 1) * digits).sum(-1)
    found, counts = numbers.flatten().unique(return_counts=True)
    return found, counts


def jensen_shannon(first: Tensor, second: Tensor, n: int, size: int) -> float:
    """The Jensen-Shannon divergence of the n-gram shares of two sets of windows, in bits: 0 to 1.

    Of few windows it is biased upwards, two halves of one text included: compare sets of one size.
    ValueError as of `ngram_counts`.
    """
    numbers, counts = zip(*(ngram_counts(codes, n, size) for codes in (first, second)), strict=True)
    known, place = torch.cat(numbers).unique(return_inverse=True)
    shares = torch.zeros(2, len(known), dtype=torch.float64)
    for row, at, count in zip(shares, place.split([*map(len, numbers)]), counts, strict=True):
        row[at] = count.double() / count.sum()
    mean = shares.mean(0)
    divergence = torch.special.xlogy(shares, shares / mean).sum() / 2
    # Rounding leads beyond its ends.
    return min(max(float(divergence) / math.log(2), 0.0), 1.0)
