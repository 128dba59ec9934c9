"""Latent vectors of given images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fastgan.engine import invert, pictures
from fastgan.engine.latents import draw_noise
from fastgan.models import Generator, create_model

from .conftest import TINY


class Linear(Generator):
    """Images whose pixels are a product with z, and the label."""

    def __init__(self, num_classes: int = 0) -> None:
        super().__init__(latent_dim=3, image_size=2, channels=1)
        self.num_classes = num_classes
        self.weight = nn.Parameter(torch.eye(3, 4) + 0.1)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        pixels = z @ self.weight
        return (pixels if labels is None else pixels + labels[:, None]).view(-1, 1, 2, 2)


def test_latent_vectors_of_a_linear_generator_are_found():
    generator, z = Linear(), draw_noise(Linear(), 5, 7)
    images = generator(z).detach()
    found = invert(generator, images, prior=0.0, steps=200, batch_size=3)
    # A search of 200 steps ends near, by no dtype's rounding.
    torch.testing.assert_close(found.latents, z, rtol=0, atol=1e-2)
    torch.testing.assert_close(found.images, images, rtol=0, atol=1e-2)
    assert found.distances.max() < 1e-4
    assert generator.weight.requires_grad
    assert generator.weight.grad is None


def test_each_begins_at_the_nearest_sample():
    generator = Linear()
    images = generator(draw_noise(generator, 9, 0)).detach()[[8, 2]]
    found = invert(generator, images, steps=0, candidates=9, seed=0)
    assert torch.equal(found.latents, draw_noise(generator, 9, 0)[[8, 2]])
    assert found.distances.tolist() == [0.0, 0.0]


def test_classes_are_those_of_the_images():
    generator, labels = Linear(4), torch.tensor([3, 0])
    images = generator(draw_noise(generator, 2, 5), labels).detach()
    found = invert(generator, images, labels=labels, prior=0.0, steps=200)
    assert found.distances.max() < 1e-4
    other = invert(generator, images, labels=labels.flip(0), prior=10.0, steps=50)
    assert other.distances.min() > 1e-2


def test_the_search_gets_nearer_on_a_network_and_the_prior_keeps_vectors_short():
    torch.manual_seed(0)
    generator = create_model("dcgan_generator", latent_dim=8, **TINY).eval()
    images = torch.rand(2, 1, 8, 8) * 2 - 1
    start, end = (
        invert(generator, images, steps=n, learning_rate=0.3, candidates=4).distances
        for n in (0, 15)
    )
    assert (end < start).all()
    free, held = (
        invert(generator, images, steps=12, prior=p, candidates=8).latents.square().mean()
        for p in (0.0, 100.0)
    )
    assert abs(held - 1) < abs(free - 1)


def test_another_distance():
    def of_first_pixel(images: Tensor, targets: Tensor) -> Tensor:
        return (images - targets)[:, 0, 0, 0].abs()

    images = torch.full((1, 1, 2, 2), 0.3)
    found = invert(Linear(), images, distance=of_first_pixel, prior=0.0, steps=100)
    assert abs(found.images[0, 0, 0, 0] - 0.3) < 1e-2


def test_what_inversion_refuses():
    images = torch.zeros(2, 1, 2, 2)
    with pytest.raises(ValueError, match=r"generator's shape \[1, 2, 2\], got \[3, 2, 2\]"):
        invert(Linear(), images.expand(-1, 3, -1, -1))
    with pytest.raises(ValueError, match=r"images must be float \[N, C, H, W\]"):
        invert(Linear(), images.to(torch.uint8))
    with pytest.raises(ValueError, match="steps must be at least 0, got -1"):
        invert(Linear(), images, steps=-1)
    with pytest.raises(ValueError, match="learning_rate must be a number of at least 0, got nan"):
        invert(Linear(), images, learning_rate=float("nan"))
    with pytest.raises(ValueError, match="Linear draws no classes"):
        invert(Linear(), images, labels=torch.zeros(2, dtype=torch.int64))


def test_projections_stand_beside_their_images():
    generator = Linear()
    images = generator(draw_noise(generator, 3, 2)).detach()
    pairs, columns, found = pictures.projections(generator, images, steps=20)
    assert columns == 2
    assert torch.equal(pairs[::2], images)
    assert torch.equal(pairs[1::2], found.images)
