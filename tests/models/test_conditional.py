"""Conditional DCGANs, and autoencoders of DCGAN halves."""

from __future__ import annotations

import pytest
import torch

from fastgan.models import create_model

SHAPE = {"image_size": 8, "channels": 1, "width": 4}
LABELS = torch.tensor([2, 0, 1])


def test_cdcgan_generator_is_a_dcgan_of_noise_and_one_hot_label() -> None:
    model = create_model("cdcgan_generator", latent_dim=5, num_classes=3, **SHAPE).eval()
    z = torch.randn(3, 5)
    given = torch.cat([z, torch.nn.functional.one_hot(LABELS, 3)], 1)
    assert torch.equal(model(z, LABELS), model.body(given))
    assert (model.latent_dim, model.num_classes) == (5, 3)
    with pytest.raises(ValueError, match=r"labels: a conditional network needs int64 \[3\], got"):
        model(z)


def test_cdcgan_discriminator_sees_a_picture_of_the_label() -> None:
    model = create_model("cdcgan_discriminator", num_classes=3, **SHAPE).eval()
    images = torch.randn(3, 1, 8, 8)
    seen = torch.cat([images, model.label.weight[LABELS].view(3, 1, 8, 8)], 1)
    assert torch.equal(model(images, LABELS), model.body(seen))
    with pytest.raises(ValueError, match="labels must be int64 of shape"):
        model(images, LABELS[:2])


def test_conditional_networks_of_images_that_are_not_square() -> None:
    size = {**SHAPE, "image_size": (8, 12), "num_classes": 3}
    labels = torch.tensor([0, 2])
    images = create_model("cdcgan_generator", latent_dim=5, **size)(torch.randn(2, 5), labels)
    assert images.shape == (2, 1, 8, 12)
    assert create_model("cdcgan_discriminator", **size)(images, labels).shape == (2,)
    assert (
        create_model("vae", image_size=(8, 12), width=4).reconstruct(images).shape == images.shape
    )


def test_acgan_discriminator_has_a_logit_for_each_class() -> None:
    model = create_model("acgan_discriminator", num_classes=3, **SHAPE)
    logits, classes = model(torch.randn(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64))
    assert (logits.shape, classes.shape) == ((4,), (4, 3))


@pytest.mark.parametrize("name", ["autoencoder", "vae"])
def test_an_autoencoder_goes_through_z(name: str) -> None:
    model = create_model(name, latent_dim=6, **SHAPE).eval()
    images = torch.rand(3, 1, 8, 8) * 2 - 1
    z = model.encode(images)
    assert z.shape == (3, 6)
    again = model.reconstruct(images)
    assert torch.equal(again, model(z))
    torch.testing.assert_close(again, model.logits(z).tanh())
    if name == "vae":
        mean, log_variance = model.posterior(images)
        assert torch.equal(mean, z)
        assert log_variance.shape == (3, 6)


def test_vae_knows_two_likelihoods() -> None:
    with pytest.raises(
        ValueError, match="likelihood must be one of 'bernoulli', 'gaussian', got 'poisson'"
    ):
        create_model("vae", likelihood="poisson", **SHAPE)


def test_discriminator_gives_logits_of_its_features() -> None:
    model = create_model("dcgan_discriminator", **SHAPE).eval()
    images = torch.randn(3, 1, 8, 8)
    assert model.features(images).shape == (3, 4, 4, 4)
    features = model.features(images)
    assert torch.equal(model.forward_head(features), model(images))
    with pytest.warns(DeprecationWarning, match="judged is now discriminator.forward_head"):
        assert torch.equal(model.judged(features), model(images))
