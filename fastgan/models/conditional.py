"""DCGANs that draw a class that is asked for.

Sources: Mirza, Osindero 2014, "Conditional Generative Adversarial Nets" (arXiv:1411.1784), on the
DCGAN networks; Odena, Olah, Shlens 2017, "Conditional Image Synthesis with Auxiliary Classifier
GANs" (arXiv:1610.09585).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.checks import check_int, sides

from ._base import Discriminator, Generator, ImageSize, check_labels
from ._registry import register_model
from .dcgan import DCGANDiscriminator, DCGANGenerator


def one_hot(labels: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
    """[N, num_classes]; the row of a label outside 0..num_classes - 1 is zero."""
    return (labels[:, None] == torch.arange(num_classes, device=labels.device)).to(dtype)


@register_model("cdcgan_generator")
class CDCGANGenerator(Generator):
    """z [N, latent_dim] and labels, int64 [N] → images [N, channels, H, W].

    A DCGANGenerator of (z, one-hot label), `body`. Arguments: the DCGANGenerator's, and
    num_classes.
    """

    def __init__(
        self,
        latent_dim: int = 100,
        image_size: ImageSize = 64,
        channels: int = 3,
        *args: Any,
        num_classes: int = 10,
        **kwargs: Any,
    ) -> None:
        super().__init__(latent_dim, image_size, channels)
        self.num_classes = check_int("num_classes", num_classes, 1)
        self.body = DCGANGenerator(latent_dim + num_classes, image_size, channels, *args, **kwargs)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        z = self.latent_vectors(z)
        given = one_hot(check_labels(labels, len(z)), self.num_classes, z.dtype)
        return self.body(torch.cat([z, given], 1))


@register_model("cdcgan_discriminator")
class CDCGANDiscriminator(Discriminator):
    """Images [N, channels, H, W] and labels, int64 [N] → logits [N].

    A DCGANDiscriminator of the image with one more channel, a learned picture of the label
    (`label.weight`, [num_classes, H·W]). Arguments: the DCGANDiscriminator's, and
    num_classes.
    """

    def __init__(
        self,
        image_size: ImageSize = 64,
        channels: int = 3,
        *args: Any,
        num_classes: int = 10,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_size, channels)
        self.body = DCGANDiscriminator(image_size, channels + 1, *args, **kwargs)
        self.label = nn.Embedding(
            check_int("num_classes", num_classes, 1), math.prod(sides(image_size))
        )

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.check_images(images)
        plane = self.label(check_labels(labels, len(x))).view(-1, 1, *x.shape[2:])
        return self.body(torch.cat([x, plane.to(x.dtype)], 1))


@register_model("acgan_discriminator")
class ACGANDiscriminator(DCGANDiscriminator):
    """Images → (logits [N], class logits [N, num_classes]).

    A DCGANDiscriminator with an output for each class more. It takes labels, as conditional
    discriminators do, and does not look at them.
    """

    def __init__(self, *args: Any, num_classes: int = 10, **kwargs: Any) -> None:
        super().__init__(*args, outputs=1 + check_int("num_classes", num_classes, 1), **kwargs)

    def forward(  # type: ignore[override]
        self, images: Tensor, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        out = super().forward(images)
        return out[:, 0], out[:, 1:]
