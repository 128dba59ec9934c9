"""Instance noise and its schedule."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fastgan.augment import InstanceNoise, instance_noise


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_noise_has_its_strength(dtype: torch.dtype) -> None:
    images = torch.ones(50, 3, 20, 20, dtype=dtype)
    noisy = instance_noise(images, torch.tensor(0.25))
    assert noisy.dtype == dtype
    noise = noisy.double() - 1
    assert noise.mean().item() == pytest.approx(0, abs=0.005)
    assert noise.std().item() == pytest.approx(0.25, rel=0.02)


def test_schedule() -> None:
    noise, images = InstanceNoise(sigma=0.4, steps=4, final=0.1), torch.zeros(8, 1, 40, 40)
    for expected in (0.4, 0.325, 0.25, 0.175, 0.1, 0.1):
        assert noise.sigma.item() == pytest.approx(expected)
        assert noise(images).std().item() == pytest.approx(expected, rel=0.05)
        noise.update(torch.zeros(8))
    restored = InstanceNoise(sigma=0.4, steps=4, final=0.1)
    restored.load_state_dict(noise.state_dict())
    assert restored.sigma.item() == pytest.approx(0.1)


def test_annealed_to_nothing_it_is_the_identity() -> None:
    noise, images = InstanceNoise(steps=1), torch.randn(2, 3, 4, 4)
    noise.update(torch.zeros(2))
    assert torch.equal(noise(images), images)


def test_nothing_waits_for_the_device(no_host_sync: Any) -> None:
    noise, images = InstanceNoise(), torch.randn(2, 3, 4, 4, requires_grad=True)
    with no_host_sync():
        noise(images).sum().backward()
        noise.update(torch.zeros(2))
    assert images.grad is not None
    assert torch.equal(images.grad, torch.ones_like(images))


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="sigma must be a finite number of at least 0, got -1"):
        InstanceNoise(sigma=-1)
    with pytest.raises(ValueError, match="final must be a finite number of at least 0, got inf"):
        InstanceNoise(final=float("inf"))
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        InstanceNoise(steps=0)
