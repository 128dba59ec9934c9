"""A classifier of two sets."""

from __future__ import annotations

import pytest
import torch

from fastgan.metrics import domain_classifier


def textures(count: int, along: int, seed: int) -> torch.Tensor:
    """Stripes along one of the two sides, of any brightness."""
    rng = torch.Generator().manual_seed(seed)
    lines = torch.randint(0, 256, (count, 3, 16, 1), generator=rng, dtype=torch.uint8)
    images = lines.expand(-1, -1, -1, 16)
    return (images if along else images.mT).contiguous()


def test_it_tells_sets_apart_that_were_not_seen():
    before = torch.get_rng_state()
    network = domain_classifier(textures(150, 0, 0), textures(90, 1, 1))
    assert torch.equal(before, torch.get_rng_state())
    with torch.no_grad():
        first, second = (network(textures(50, i, 9) / 127.5 - 1) for i in range(2))
    assert first.shape == (50,)
    assert (first < 0).float().mean() > 0.9
    assert (second > 0).float().mean() > 0.9


def test_sets_of_one_kind_are_not_told_apart():
    network = domain_classifier(textures(90, 0, 0), textures(90, 0, 1))
    with torch.no_grad():
        first, second = (network(textures(200, 0, seed) / 127.5 - 1) > 0 for seed in (7, 8))
    # Whatever it says, it says of both: five standard deviations.
    assert abs(float(first.float().mean() - second.float().mean())) < 0.25


def test_other_images_are_refused():
    images = textures(4, 0, 0)
    with pytest.raises(ValueError, match=r"second must be images .* of uint8, got torch.float32"):
        domain_classifier(images, images.float())
    with pytest.raises(ValueError, match=r"one shape, got \[3, 16, 16\] and \[3, 16, 8\]"):
        domain_classifier(images, images[..., :8])
    with pytest.raises(ValueError, match="epochs must be at least 1"):
        domain_classifier(images, images, epochs=0)
