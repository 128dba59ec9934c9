"""How near sounds are: log-mel statistics of sets, and spectra of pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.metrics.distribution import FrechetDistance
from fastgan.nn.mel import LogMel

BANDS = 16
FEATURES = f"mean and deviation over time of {BANDS} log-mel bands"
_AT_ONCE = 256
STFT_WINDOWS = (128, 256, 512)
"""Samples of the Hann windows of `SpectralDistance.stft`, each every quarter of it."""
_MIN_MAGNITUDE = 1e-5  # of a magnitude


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


class SpectralDistance:
    """How far waveforms are from real ones: by log-mel spectrograms, and by magnitudes of spectra.

    Args:
        mel: the log-mel spectrograms.
    """

    def __init__(self, mel: LogMel) -> None:
        self._mel = mel
        self._of_mel: list[Tensor] = []
        self._of_spectra: list[Tensor] = []

    def update(self, real: Tensor, made: Tensor) -> None:
        """Takes pairs of waveforms [N, 1, L], L a multiple of the mel's hop, above 256."""
        self._of_mel.append((self._mel(real) - self._mel(made)).abs().mean((1, 2)))
        for size in STFT_WINDOWS:
            a, b = (_magnitudes(sound, size) for sound in (real, made))
            log_a, log_b = (x.clamp(min=_MIN_MAGNITUDE).log() for x in (a, b))
            logs = (log_a - log_b).abs().mean((1, 2))
            squares = [x.square().sum((1, 2)) for x in (a - b, a)]
            self._of_spectra.append(torch.stack([*squares, logs], 1).double())

    def mel(self) -> float:
        """The mean absolute difference of log-mel spectrograms."""
        return float(torch.cat(self._of_mel).double().mean())

    def stft(self) -> float:
        """The multi-resolution STFT distance (Yamamoto, Song, Kim 2020, arXiv:1910.11480).

        The mean over STFT_WINDOWS of the spectral convergence (the norm of the difference of
        magnitudes over that of the real ones, each of the whole set) and of the mean absolute
        difference of logarithms of magnitudes of at least 1e-5, added.
        """
        found = []
        for k in range(len(STFT_WINDOWS)):
            apart, real, logs = torch.cat(self._of_spectra[k :: len(STFT_WINDOWS)]).unbind(1)
            found.append((apart.sum() / real.sum().clamp(min=1e-12)).sqrt() + logs.mean())
        return float(torch.stack(found).mean())


def _magnitudes(sound: Tensor, size: int) -> Tensor:
    """[N, size // 2 + 1, frames] of waveforms [N, 1, L]."""
    window = torch.hann_window(size, device=sound.device)
    spectrum = torch.stft(sound.squeeze(1), size, size // 4, window=window, return_complex=True)
    return spectrum.abs()
