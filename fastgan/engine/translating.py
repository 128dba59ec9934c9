"""Steps of generators that are given something of each image and are to make the image of it.

The generator takes a condition (an image of less colours, a smaller one, one with a hole ...) in
place of noise, and the discriminator sees images with their conditions. Beside the adversarial loss
the generator has losses that compare what it made with the image (Isola et al. 2017,
arXiv:1611.07004; Ledig et al. 2017, arXiv:1609.04802).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.data.conditions import CONDITIONS
from fastgan.engine.gan import GAN, Batch, Metrics
from fastgan.engine.step import gan_step, mean_metrics
from fastgan.engine.update import frozen
from fastgan.ops import packed_weights

Losses = dict[str, tuple[float, Tensor]]
"""Weight and value by name."""


class TranslationStep(nn.Module):
    """A GAN's step on images and their conditions, with content and feature losses.

    A condition of another kind, and a content that is compared in another space, are what a
    subclass overrides: `given` and `content`.

    Args:
        condition: of `CONDITIONS`, or "pairs": the data's own.
        content_weight: of the mean absolute error between what is made and the image.
        feature_weight: of the mean absolute error between their `discriminator.features`.
        adversarial_weight: of the generator's loss against the discriminator; with 0 the
            discriminator is neither used nor trained.
    """

    def __init__(
        self,
        condition: str = "grey",
        content_weight: float = 100.0,
        feature_weight: float = 0.0,
        adversarial_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.condition = condition
        self.content_weight, self.feature_weight = content_weight, feature_weight
        self.adversarial_weight = adversarial_weight
        self.pool: nn.Module | None = None

    def given(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """The conditions of images [N, ...] in [-1, 1], whose own (other halves) are `labels`."""
        if self.condition != "pairs":
            return CONDITIONS[self.condition](images)
        assert labels is not None
        return labels

    def content(self, made: Tensor, images: Tensor) -> Tensor:
        """How far what was made is from the images: a scalar."""
        return (made - images).abs().mean()

    def fixed(self, images: Tensor, labels: Tensor | None, seed: int) -> Tensor:
        """`given`, with random numbers of `seed` alone."""
        with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
            torch.manual_seed(seed)
            return self.given(images, labels)

    @packed_weights()
    def forward(
        self, gan: GAN, batches: Callable[[int], Batch], due: Sequence[Sequence[bool]] = ()
    ) -> Metrics:
        def paired(i: int) -> Batch:
            batch = batches(i)
            return replace(batch, labels=self.given(batch.images, batch.labels))

        if not self.adversarial_weight:
            return self.update_generator(gan, paired(0))
        return gan_step(gan, paired, due, self.update_generator, self.pool)

    def update_generator(self, gan: GAN, batch: Batch, fakes: Tensor | None = None) -> Metrics:
        """One update of the generator, as `generator_phase` makes it, by all its losses."""
        gan.update_g.start(gan.accumulate)
        metrics = []
        with frozen(gan.discriminator):
            for part in batch.split(gan.accumulate):
                with gan.autocast():
                    made = gan.generate(part) if fakes is None else fakes
                    losses = self.losses(gan, made, part)
                    total = sum(
                        (weight * value for weight, value in losses.values()),
                        start=made.new_zeros(()),
                    )
                gan.update_g.backward(total / gan.accumulate)
                metrics.append({name: value.detach() for name, (_, value) in losses.items()})
        gan.update_g.finish()
        return mean_metrics(metrics)

    def losses(self, gan: GAN, made: Tensor, part: Batch) -> Losses:
        """The generator's losses for what it made of a part of the batch."""
        found = {"loss_content": (self.content_weight, self.content(made, part.images))}
        if self.adversarial_weight:
            logits = gan.discriminate(made, part.labels)
            reals = partial(gan.discriminate, part.images, part.labels)
            found["loss_g"] = self.adversarial_weight, gan.generator_loss(logits, reals)
        if self.feature_weight:
            discriminator: Any = gan.discriminator
            with torch.no_grad(), gan.running(discriminator):
                seen = discriminator.features(part.images, part.labels)
            with gan.running(discriminator):
                features = discriminator.features(made, part.labels)
            found["loss_features"] = self.feature_weight, (features - seen).abs().mean()
        return found
