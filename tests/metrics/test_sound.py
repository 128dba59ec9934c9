from __future__ import annotations

import pytest
import torch

from fastgan.metrics.sound import log_mel_features, sound_distance


def noise(seed: int, count: int = 40) -> torch.Tensor:
    return torch.randn(count, 1, 1024, generator=torch.Generator().manual_seed(seed)) / 4


def test_like_sounds_are_near():
    assert log_mel_features(noise(0), 8000).shape == (40, 32)
    like = sound_distance(noise(0), noise(1), 8000)
    softer = sound_distance(noise(0), noise(1) / 10, 8000)
    low = sound_distance(noise(0), noise(1).cumsum(2) / 10, 8000)
    assert sound_distance(noise(0), noise(0), 8000) == pytest.approx(0, abs=1e-6)
    assert like < softer / 5
    assert like < low / 5
