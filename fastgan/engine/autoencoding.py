"""Steps of networks that encode: autoencoder, variational autoencoder, and VAE-GAN.

The generator of such a run is a module with an encoder as well (`fastgan.models.Autoencoder`), so
that its samples, averages, checkpoints and grids are those of any other generator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.engine.gan import GAN, Batch, Metrics
from fastgan.engine.step import mean_metrics
from fastgan.engine.update import frozen
from fastgan.losses import kl_divergence, reconstruction_loss
from fastgan.ops import packed_weights

Batches = Callable[[int], Batch]
Due = Sequence[Sequence[bool]]


def binarized(images: Tensor) -> Tensor:
    """Every pixel of images in [-1, 1] drawn as -1 or 1, its brightness the probability of 1."""
    return torch.bernoulli((images + 1) / 2) * 2 - 1


def sampled(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """mean + σ · noise: a sample that gradients reach mean and variance through."""
    return mean + (0.5 * log_variance).exp() * noise


def encoded_and_back(model: Any, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Reconstruction loss and KL divergence of images, in nats an image: two scalars.

    Their sum is minus the evidence lower bound, estimated with one sample an image.
    """
    mean, log_variance = model.posterior(images)
    z = sampled(mean, log_variance, noise)
    likelihood = model.likelihood
    again = model.logits(z) if likelihood == "bernoulli" else model(z)
    reconstruction = reconstruction_loss(again, images, likelihood)
    return reconstruction, kl_divergence(mean, log_variance)


@packed_weights()
def autoencoder_step(gan: GAN, batches: Batches, due: Due = ()) -> Metrics:
    """One update of encoder and decoder by the squared error of reconstructions."""
    model: Any = gan.generator
    gan.update_g.start(gan.accumulate)
    metrics = []
    for part in batches(0).split(gan.accumulate):
        with gan.autocast():
            again = model(model.encode(part.images))
            loss = reconstruction_loss(again, part.images, "gaussian")
        gan.update_g.backward(loss / gan.accumulate)
        metrics.append({"loss_reconstruction": loss.detach()})
    gan.update_g.finish()
    return mean_metrics(metrics)


class VAEStep(nn.Module):
    """One update of a variational autoencoder: minus the evidence lower bound, in nats an image.

    Kingma and Welling 2014 (arXiv:1312.6114), with the weight of the KL divergence of Higgins et
    al. 2017 (β-VAE), which rises linearly from 0 over the first updates (Bowman et al. 2016).

    Args:
        kl_weight: β.
        kl_warmup: updates over which it rises; 0 starts with all of it.
        binarize: every pixel is drawn anew in each step, white with its brightness as probability,
            and the encoder sees what was drawn (Burda, Grosse, Salakhutdinov 2016).

    Buffers: `updates`, made so far, which a checkpoint keeps.
    """

    updates: Tensor

    def __init__(self, kl_weight: float = 1.0, kl_warmup: int = 0, binarize: bool = False) -> None:
        super().__init__()
        self.kl_weight, self.kl_warmup, self.binarize = kl_weight, kl_warmup, binarize
        self.register_buffer("updates", torch.zeros(()))

    @packed_weights()
    def forward(self, gan: GAN, batches: Batches, due: Due = ()) -> Metrics:
        gan.update_g.start(gan.accumulate)
        weight = self.next_weight()
        metrics = []
        for part in batches(0).split(gan.accumulate):
            images = binarized(part.images) if self.binarize else part.images
            with gan.autocast():
                reconstruction, kl = encoded_and_back(gan.generator, images, part.noise)
                loss = reconstruction + weight * kl
            gan.update_g.backward(loss / gan.accumulate)
            found = {"loss_reconstruction": reconstruction, "loss_kl": kl, "kl_weight": weight}
            metrics.append({name: value.detach() for name, value in found.items()})
        gan.update_g.finish()
        return mean_metrics(metrics)

    def next_weight(self) -> Tensor:
        """The weight of the KL divergence in the update that comes, on the device; counts it."""
        self.updates.add_(1)
        share = self.updates / max(self.kl_warmup, 1)
        return self.kl_weight * share.clamp(max=1.0)


class VAEGANStep(VAEStep):
    """Larsen et al. 2016, "Autoencoding beyond pixels using a learned similarity metric".

    The reconstruction is compared in a layer of the discriminator (`discriminator.features`), by
    half the squared error. With the discriminator D, the decoder G, encodings z and noise p:

        encoder        KL + |features(x) - features(G(z))|² / 2
        decoder        feature_weight · |features(x) - features(G(z))|² / 2, and the generator's
                       loss of G(z) and G(p)
        discriminator  its loss of x against G(z) and G(p)
    """

    def __init__(
        self, kl_weight: float = 1.0, kl_warmup: int = 0, feature_weight: float = 1e-3
    ) -> None:
        super().__init__(kl_weight, kl_warmup)
        self.feature_weight = feature_weight

    @packed_weights()
    def forward(self, gan: GAN, batches: Batches, due: Due = ()) -> Metrics:
        batch = batches(0)
        model: Any = gan.generator
        discriminator: Any = gan.discriminator
        with gan.autocast():
            mean, log_variance = model.posterior(batch.images)
            z = sampled(mean, log_variance, batch.noise)
            again, drawn = model(z), model(torch.randn_like(batch.noise))

        gan.update_d.start(1)
        with gan.autocast():
            real = gan.discriminate(batch.images, None)
            pairs = [gan.discriminate(fake.detach(), None) for fake in (again, drawn)]
            loss_d = sum(
                (gan.discriminator_loss(real, fake) for fake in pairs), start=z.new_zeros(())
            )
        gan.update_d.backward(loss_d / 2)
        gan.update_d.finish()

        gan.update_g.start(2)
        weight = self.next_weight()
        with frozen(discriminator), gan.autocast():
            with torch.no_grad():
                seen = discriminator.features(batch.images)
            found = discriminator.features(again)
            similarity = reconstruction_loss(found, seen, "gaussian")
            kl = kl_divergence(mean, log_variance)
            logits = discriminator.forward_head(found), discriminator(drawn)
            fooled = gan.loss.generator(logits[0]) + gan.loss.generator(logits[1])
            loss_encoder = weight * kl + similarity
            loss_decoder = self.feature_weight * similarity + fooled / 2
        encoder, decoder = list(model.encoder.parameters()), list(model.decoder.parameters())
        gan.update_g.backward(loss_encoder, of=encoder, retain_graph=True)
        gan.update_g.backward(loss_decoder, of=decoder)
        gan.update_g.finish()
        return {
            "loss_d": loss_d.detach() / 2,
            "loss_g": fooled.detach() / 2,
            "loss_reconstruction": similarity.detach(),
            "loss_kl": kl.detach(),
            "kl_weight": weight.detach(),
            "real_logit": real.detach().float().mean(),
            "fake_logit": torch.cat([p.detach().float().flatten() for p in pairs]).mean(),
        }
