"""Amplifying frequency bands of each image its own way.

Source: Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data",
appendix B: bands of an octave each, from the filters of the wavelet with two vanishing moments.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan.augment._pixels import extend

BANDS = 4


def make_bank() -> Tensor:
    """The bands' filters [4, 43], symmetric, from the lowest (an eighth of the spectrum) up.

    They sum to the unit pulse: equal gains change nothing but the amplitude.
    """
    root = math.sqrt(3)
    low = torch.tensor([1 + root, 3 + root, 3 - root, 1 - root], dtype=torch.float64)
    low = low / (4 * math.sqrt(2))
    high = low * torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    half_low, half_high = _autocorrelation(low) / 2, _autocorrelation(high) / 2
    bank = torch.zeros(BANDS, 1, dtype=torch.float64)
    bank[0] = 1
    for band in range(1, BANDS):
        # What was split so far moves down an octave, and leaves the upper half to this band.
        spread = torch.zeros(BANDS, 2 * bank.shape[1] - 1, dtype=torch.float64)
        spread[:, ::2] = bank
        bank = F.conv1d(spread[:, None], half_low.view(1, 1, -1), padding=6)[:, 0]
        middle = bank.shape[1] // 2
        bank[band, middle - 3 : middle + 4] += half_high
    return bank


def _autocorrelation(taps: Tensor) -> Tensor:
    return F.conv1d(taps.view(1, 1, -1), taps.view(1, 1, -1), padding=len(taps) - 1).flatten()


# Share of natural images' power in each band, appendix B: 1/f spectra.
POWER = torch.tensor([10.0, 1.0, 1.0, 1.0]) / 13


def keep_power(gains: Tensor, power: Tensor) -> Tensor:
    """`gains` [N, 4] after each band's change was followed by a rescaling to the former power.

    Args:
        power: POWER, on the gains' device.
    """
    after = 1 - power + power * gains.square()
    return gains / after.prod(-1, keepdim=True).sqrt()


def filter_bands(images: Tensor, gains: Tensor, bank: Tensor) -> Tensor:
    """Images [N, C, H, W] with each frequency band times its gain, in x and in y.

    Args:
        gains: [N, 4], from the lowest band up.
        bank: `make_bank()`, on the images' device.
    """
    n, channels, height, width = images.shape
    taps = (gains.unsqueeze(-1) * bank.to(gains.dtype)).sum(1).to(images.dtype)
    taps = taps.repeat_interleave(channels, dim=0).unsqueeze(1)
    maps = images.reshape(1, n * channels, height, width)
    margin = bank.shape[1] // 2
    maps = F.conv2d(extend(maps, margin, 2), taps.unsqueeze(3), groups=n * channels)
    maps = F.conv2d(extend(maps, margin, 3), taps.unsqueeze(2), groups=n * channels)
    return maps.view_as(images)
