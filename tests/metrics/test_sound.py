from __future__ import annotations

import numpy as np
import pytest
import torch

from fastgan.metrics.sound import SpectralDistance, log_mel_features, sound_distance
from fastgan.nn.mel import LogMel
from fastgan.ops.core.tolerance import FLOOR


def noise(seed: int, count: int = 40) -> torch.Tensor:
    return torch.randn(count, 1, 1024, generator=torch.Generator().manual_seed(seed)) / 4


def test_like_sounds_are_near():
    assert log_mel_features(noise(0), 8000).shape == (40, 32)
    like = sound_distance(noise(0), noise(1), 8000)
    softer = sound_distance(noise(0), noise(1) / 10, 8000)
    low = sound_distance(noise(0), noise(1).cumsum(2) / 10, 8000)
    # The root of a covariance in it halves the digits of its least eigenvalues.
    assert sound_distance(noise(0), noise(0), 8000) == pytest.approx(0, abs=1e-6)
    assert like < softer / 5
    assert like < low / 5


def test_spectral_distances_by_their_definitions():
    mel = LogMel(8000, 256, 64, 20)
    real, made = noise(0, 5), noise(1, 5) / 2
    distance = SpectralDistance(mel)
    for part in (slice(0, 2), slice(2, 5)):
        distance.update(real[part], made[part])
    near = pytest.approx(float((mel(real) - mel(made)).abs().mean()), rel=FLOOR[torch.float32])
    assert distance.mel() == near
    expected = []
    for size in (128, 256, 512):
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
        a, b = (
            np.abs(np.fft.rfft(frames * window))
            for frames in (
                np.lib.stride_tricks.sliding_window_view(
                    np.pad(x[:, 0].double().numpy(), ((0, 0), (size // 2, size // 2)), "reflect"),
                    size,
                    1,
                )[:, :: size // 4]
                for x in (real, made)
            )
        )
        logs = np.abs(np.log(np.maximum(a, 1e-5)) - np.log(np.maximum(b, 1e-5))).mean()
        expected.append(np.linalg.norm(a - b) / np.linalg.norm(a) + logs)
    assert distance.stft() == pytest.approx(np.mean(expected), rel=FLOOR[torch.float32])
    same = SpectralDistance(mel)
    same.update(real, real)
    assert (same.mel(), same.stft()) == (0, 0)
