"""Calorimeter-like showers, generated: the energy that a particle leaves in the cells of a block.

A parametric stand-in for a simulation, after Longo, Sestili 1975 (the mean longitudinal profile, a
gamma distribution whose maximum moves with the logarithm of the energy) and Grindhammer, Peters
1993 (arXiv:hep-ex/0001020: fluctuating shapes, a core and a halo across). Not a detector's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastgan.checks import check_int
from fastgan.data.dataset import ImageDataset

ENERGIES = (1.0, 100.0)
"""GeV, drawn log-uniform."""
CRITICAL = 0.01
"""The critical energy in GeV, which a shower's maximum lies deeper for the more it is above."""
QUANTUM = 0.002
"""GeV that a cell's energy fluctuates by: less is not seen, and a cell's variance is that much
times its mean."""
PEAK = 0.5
"""The root of the share of the energy that a cell may hold; the largest is about 0.3."""
DEPTH = 20.0
"""Radiation lengths of the block; its width is 8 Molière radii."""
_RADII = 8.0


def make_showers(count: int, shape: Sequence[int] = (16, 16, 16), seed: int = 0) -> ImageDataset:
    """Showers float32 [count, 1, D, H, W], with conditions float32 [count, 1].

    A cell holds `√(energy of the cell / energy of the particle)`, up to PEAK: the root brings
    values of three orders of magnitude nearer to each other. A condition is the logarithm of the
    particle's energy, -1 at the lowest and 1 at the highest; see `energies_of` and `cells_of`.
    """
    check_int("count", count, 1)
    depth, height, width = (check_int("shape", side, 2) for side in shape)
    rng = np.random.default_rng(seed)
    conditions = rng.uniform(-1, 1, count)
    energies = _energies(conditions)
    along = _along(rng, energies, depth)
    across = _across(rng, count, height, width)
    means = energies[:, None, None, None] * along[:, :, None, None] * across[:, None]
    # A sum of quanta: the variance is a quantum times the mean, and faint cells are mostly empty.
    cells = rng.gamma(np.maximum(means, 1e-12) / QUANTUM) * QUANTUM
    cells[cells < QUANTUM] = 0
    shares = np.sqrt(cells / energies[:, None, None, None])
    items = torch.from_numpy(shares.astype(np.float32)).clamp_(0, PEAK)[:, None]
    labels = torch.from_numpy(conditions.astype(np.float32))[:, None]
    return ImageDataset(items, labels, name=f"showers-{seed}", value_range=(0.0, PEAK))


def energies_of(conditions: Tensor) -> Tensor:
    """The particles' energies [N] in GeV of conditions [N, 1]."""
    return torch.from_numpy(_energies(conditions[:, 0].double().numpy()))


def cells_of(items: Tensor, conditions: Tensor) -> Tensor:
    """The cells' energies in GeV, float64 [N, D, H, W], of items in [-1, 1] [N, 1, D, H, W]; what
    lies below a quantum is 0, as it is in the data."""
    shares = ((items[:, 0].double() + 1) / 2 * PEAK).clamp(min=0).square()
    cells = shares * energies_of(conditions).view(-1, 1, 1, 1)
    return torch.where(cells < QUANTUM, torch.zeros_like(cells), cells)


def _energies(conditions: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = (math.log(energy) for energy in ENERGIES)
    return np.exp(low + (conditions + 1) / 2 * (high - low))


def _along(
    rng: np.random.Generator, energies: NDArray[np.float64], depth: int
) -> NDArray[np.float64]:
    """The shares of the layers [N, depth]: a gamma distribution in radiation lengths."""
    # Both its maximum and its shape differ from shower to shower, less at high energies.
    spread = 0.3 / np.sqrt(1 + np.log(energies))
    deepest = np.log(energies / CRITICAL) * np.exp(spread * rng.standard_normal(len(energies)))
    rate = 0.5 * np.exp(0.2 * rng.standard_normal(len(energies)))
    edges = np.linspace(0, DEPTH, 8 * depth + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    # The density, up to a factor that its largest value is divided by first.
    log = (rate * deepest)[:, None] * np.log(middle) - rate[:, None] * middle
    density = np.exp(log - log.max(axis=1, keepdims=True))
    # What a longer block would hold leaks out at the back.
    beyond = np.linspace(DEPTH, 3 * DEPTH, 16 * depth + 1)[1:]
    log_beyond = (rate * deepest)[:, None] * np.log(beyond) - rate[:, None] * beyond
    leaked = np.exp(log_beyond - log.max(axis=1, keepdims=True)).sum(1)
    shares: NDArray[np.float64] = density.reshape(len(energies), depth, 8).sum(2)
    return shares / (density.sum(1) + leaked)[:, None]


def _across(rng: np.random.Generator, count: int, height: int, width: int) -> NDArray[np.float64]:
    """The shares of the cells of a layer [N, height, width]: a core and a halo around the axis."""
    axis = rng.normal(0, 0.25, (count, 2))
    core = 0.5 * np.exp(0.15 * rng.standard_normal(count))
    places = [(np.arange(n) + 0.5) / n * _RADII - _RADII / 2 for n in (height, width)]
    y = places[0][None, :, None] - axis[:, 0, None, None]
    x = places[1][None, None, :] - axis[:, 1, None, None]
    square = y * y + x * x
    shares = np.zeros(square.shape)
    for share, radius in ((0.8, core), (0.2, 3 * core)):
        scale = (radius * radius)[:, None, None]
        density = scale / (square + scale) ** 2
        shares += share * density / density.sum((1, 2), keepdims=True)
    return shares
