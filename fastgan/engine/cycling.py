"""The step of two generators between two domains without pairs, each the other's way back.

Source: Zhu, Park, Isola, Efros 2017 (arXiv:1703.10593). An image is one of A and one of B along the
channels (`fastgan.data.Unpaired`), and the generator exchanges the two
(`fastgan.models.CycleGenerator`): twice is the cycle, and of exchanged images the identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from fastgan.engine.distributed import DistributedGroup
from fastgan.engine.gan import GAN, Batch
from fastgan.engine.translating import Losses, TranslationStep


class ImagePool(nn.Module):
    """A history of what was generated (Shrivastava et al. 2017): half of what the discriminator is
    shown are images of earlier steps, which those of this step replace.

    All processes hold the images of all, so that a checkpoint has them.

    Args:
        size: images held; 0 holds none, and shows what is given.
        item: an image's shape.
    """

    def __init__(self, size: int, item: Sequence[int]) -> None:
        super().__init__()
        self.images: Tensor
        self.held: Tensor
        self.register_buffer("images", torch.zeros(size, *item))
        self.register_buffer("held", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def forward(self, fakes: Tensor, group: DistributedGroup) -> Tensor:
        """What is shown in place of `fakes` [N, *item]."""
        size = len(self.images)
        if not size:
            return fakes
        whole = group.gather(fakes.to(self.images.dtype))
        chance = torch.rand(len(fakes), 2, device=fakes.device, dtype=self.images.dtype)
        shown = []
        for fake, (coin, place) in zip(whole, group.gather(chance), strict=True):
            full = self.held == size
            drawn = (place * size).long().clamp(max=size - 1)
            slot = torch.where(full, drawn, self.held).view(1)
            old = self.images.index_select(0, slot)[0]
            takes = full & (coin > 0.5)
            shown.append(torch.where(takes, old, fake))
            self.images.index_copy_(0, slot, torch.where(full & ~takes, old, fake)[None])
            self.held += ~full
        own = group.part(torch.stack(shown))
        return own.to(fakes.dtype).contiguous(memory_format=torch.channels_last)


class CycleStep(TranslationStep):
    """A GAN's step on images of two domains, with cycle and identity losses.

    Args:
        item: the shape of an image of both domains.
        cycle_weight: of the mean absolute error between images and themselves after both ways.
        identity_weight: of that between images and what is made of them as if of the other domain.
        image_buffer: images of the `ImagePool`.
    """

    def __init__(
        self,
        item: Sequence[int],
        cycle_weight: float = 5.0,
        identity_weight: float = 2.5,
        image_buffer: int = 50,
    ) -> None:
        super().__init__(condition="pairs")
        self.cycle_weight, self.identity_weight = cycle_weight, identity_weight
        self.pool = ImagePool(image_buffer, item)

    def given(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """The images of both domains as they are."""
        return images

    def losses(self, gan: GAN, made: Tensor, part: Batch) -> Losses:
        """The generators' losses for what they made of a part of the batch."""
        again = gan.generate(replace(part, labels=made))
        logits = gan.discriminate(made, part.labels)
        found = {
            "loss_cycle": (self.cycle_weight, self.content(again, part.images)),
            "loss_g": (
                1.0,
                gan.generator_loss(logits, partial(gan.discriminate, part.images, part.labels)),
            ),
        }
        if self.identity_weight:
            exchanged = torch.cat(part.images.chunk(2, 1)[::-1], 1)
            same = gan.generate(replace(part, labels=exchanged))
            found["loss_identity"] = self.identity_weight, self.content(same, part.images)
        return found
