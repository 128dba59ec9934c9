"""How near sounds are: log-mel statistics of sets, and spectra of pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.metrics.distribution import FrechetDistance
from fastgan.nn.mel import LogMel

BANDS = 16
FEATURES = f"mean and deviation over time of {BANDS} log-mel bands"
_AT_ONCE = 256


def log_mel_features(sound: Tensor, rate: int) -> Tensor:
    """FEATURES of waveforms [N, 1, L]: [N, 32], float64. L is a multiple of 64, 256 at least."""
    hop = 64
    mel = LogMel(rate, n_fft=256, hop=hop, mels=BANDS)
    bands = torch.cat([mel(part.float().cpu()) for part in sound.split(_AT_ONCE)]).double()
    return torch.cat([bands.mean(2), bands.std(2)], 1)


def sound_distance(first: Tensor, second: Tensor, rate: int) -> float:
    """The Fréchet distance of two sets of waveforms [N, 1, L], in `log_mel_features`.

    Of few sounds it is biased upwards. ValueError for fewer than two of a kind.
    """
    distance = FrechetDistance(2 * BANDS)
    for sound, real in ((first, True), (second, False)):
        distance.update(log_mel_features(sound, rate), real=real)
    return distance.compute()
