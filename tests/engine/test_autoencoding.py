"""Autoencoder, VAE and VAE-GAN steps against the same written out."""

from __future__ import annotations

import copy
from dataclasses import fields

import pytest
import torch
import torch.nn.functional as F
from scipy import integrate, stats
from tolerance import assert_gradients

from fastgan.engine import Batch, TrainConfig, Trainer
from fastgan.engine.autoencoding import VAEStep, binarized
from fastgan.engine.objectives import OBJECTIVES
from fastgan.losses import get_loss, kl_divergence, reconstruction_loss
from fastgan.models import create_model

from .conftest import TINY, tiny_data, tiny_trainer


def made(objective: str, model: str = "vae", discriminator: bool = False, **settings) -> Trainer:
    torch.manual_seed(0)
    arguments = {"likelihood": "gaussian"} if objective == "vae_gan" else {}
    kind = OBJECTIVES[objective]
    own = {f.name: settings.pop(f.name) for f in fields(kind) if f.name in settings}
    return Trainer(
        create_model(model, latent_dim=6, **TINY, **arguments),
        create_model("dcgan_discriminator", norm="none", **TINY) if discriminator else None,
        tiny_data(),
        TrainConfig(batch_size=8, **settings),
        objective=kind(**own),
    )


def batch() -> Batch:
    rng = torch.Generator().manual_seed(1)
    images = torch.rand(8, 1, 8, 8, generator=rng) * 2 - 1
    return Batch(images, None, torch.randn(8, 6, generator=rng))


def test_the_divergence_is_the_integral():
    mean, log_variance = torch.tensor([[0.3]]).double(), torch.tensor([[-0.7]]).double()
    q = stats.norm(0.3, torch.tensor(-0.35).exp().item())

    def integrand(z: float) -> float:
        return q.pdf(z) * (q.logpdf(z) - stats.norm.logpdf(z))

    expected, _ = integrate.quad(integrand, -10, 10)
    assert kl_divergence(mean, log_variance).item() == pytest.approx(expected, rel=1e-6)
    assert kl_divergence(torch.zeros(3, 2), torch.zeros(3, 2)) == 0


def test_the_bernoulli_likelihood_is_of_the_tanh_images():
    u = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    black_or_white = torch.randint(0, 2, u.shape).double() * 2 - 1
    p_white = (u.tanh() + 1) / 2
    p = torch.where(black_or_white > 0, p_white, 1 - p_white)
    expected = -p.log().sum() / 2
    torch.testing.assert_close(reconstruction_loss(u, black_or_white, "bernoulli"), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(2, 3), torch.zeros(2, 4), "gaussian"), "must have one shape"),
        ((torch.zeros(0, 3), torch.zeros(0, 3), "gaussian"), "must have one shape that is not"),
        ((torch.zeros(2, 3), torch.zeros(2, 3), "poisson"), "likelihood must be one of"),
    ],
)
def test_reconstruction_loss_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        reconstruction_loss(*arguments)


def test_autoencoder_step():
    trainer, data = made("autoencoder", "autoencoder"), batch()
    twin = copy.deepcopy(trainer.generator)
    metrics = trainer.step_function(trainer.gan, lambda _: data, ())
    loss = 0.5 * (twin.reconstruct(data.images) - data.images).square().sum() / 8
    torch.testing.assert_close(metrics["loss_reconstruction"], loss.detach())
    assert_gradients(trainer.generator, loss, twin)


def test_vae_step_is_the_evidence_lower_bound():
    trainer, data = made("vae", kl_weight=2.0, kl_warmup=4), batch()
    twin = copy.deepcopy(trainer.generator)
    metrics = trainer.step_function(trainer.gan, lambda _: data, ())
    mean, log_variance = twin.posterior(data.images)
    logits = 2 * twin.logits(mean + (log_variance / 2).exp() * data.noise)
    entropy = F.binary_cross_entropy_with_logits(logits, (data.images + 1) / 2, reduction="none")
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean()
    reconstruction = entropy.sum((1, 2, 3)).mean()
    torch.testing.assert_close(metrics["loss_kl"], kl.detach())
    torch.testing.assert_close(metrics["loss_reconstruction"], reconstruction.detach())
    assert metrics["kl_weight"] == 0.5  # the first of four updates towards 2
    assert_gradients(trainer.generator, reconstruction + 0.5 * kl, twin)


def test_the_weight_of_the_divergence_rises_and_stays():
    step = VAEStep(kl_weight=2.0, kl_warmup=4)
    assert [step.next_weight().item() for _ in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert VAEStep(kl_weight=3.0).next_weight() == 3.0


def test_binarized_pixels_have_the_brightness_as_mean():
    images = torch.tensor([-1.0, -0.5, 0.0, 1.0]).repeat(20000, 1)
    drawn = binarized(images)
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    torch.testing.assert_close(drawn.mean(0), images[0], atol=0.03, rtol=0)


def test_vae_gan_step_gives_each_part_its_loss():
    trainer, data = made("vae_gan", discriminator=True, feature_weight=0.25), batch()
    twin, critic = copy.deepcopy(trainer.generator), copy.deepcopy(trainer.discriminator)
    torch.manual_seed(5)
    trainer.step_function(trainer.gan, lambda _: data, ())
    torch.manual_seed(5)
    mean, log_variance = twin.posterior(data.images)
    z = mean + (log_variance / 2).exp() * data.noise
    again, drawn = twin(z), twin(torch.randn_like(data.noise))
    loss = get_loss("non_saturating")
    real = critic(data.images)
    fakes = [critic(again.detach()), critic(drawn.detach())]
    loss_d = sum(loss.discriminator(real, fake) for fake in fakes) / 2
    assert_gradients(trainer.discriminator, loss_d, critic)

    after = trainer.discriminator  # the generator's update sees the updated discriminator
    features = [after.features(x) for x in (data.images, again)]
    similarity = 0.5 * (features[1] - features[0].detach()).square().sum() / 8
    fooled = (loss.generator(after(again)) + loss.generator(after(drawn))) / 2
    kl = kl_divergence(mean, log_variance)
    assert_gradients(trainer.generator.encoder, kl + similarity, twin.encoder)
    assert_gradients(trainer.generator.decoder, 0.25 * similarity + fooled, twin.decoder)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ("gan", "objective gan needs a discriminator, got None"),
        ("vae_gan", "objective vae_gan needs a discriminator, got None"),
    ],
)
def test_a_discriminator_is_needed(objective, message):
    with pytest.raises(ValueError, match=message):
        made(objective)


def test_an_encoder_is_needed():
    with pytest.raises(ValueError, match=r"needs a generator with an encoder, .*DCGANGenerator"):
        tiny_trainer(parts={"objective": OBJECTIVES["vae"]()})
    with pytest.raises(ValueError, match="objective vae needs a generator with an encoder"):
        made("vae", "autoencoder")
    with pytest.raises(ValueError, match=r"vae_gan takes no accumulate: it must be 1, got 2"):
        made("vae_gan", discriminator=True, accumulate=2)
