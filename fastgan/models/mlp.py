"""The multilayer-perceptron GAN, the smallest that draws digits.

Source: the fully connected networks of Goodfellow et al. 2014, "Generative Adversarial Nets"
(arXiv:1406.2661), with LeakyReLU in both. Weights keep torch.nn's own initialisation: without
norm layers, DCGAN's N(0, 0.02²) would all but silence the signal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from fastgan.checks import check_int, check_share, sides

from ._base import Discriminator, Generator, ImageSize, slope
from ._registry import register_model


def _layers(sizes: Sequence[int], negative_slope: float, dropout: float = 0.0) -> nn.Sequential:
    """Linear → LeakyReLU (→ dropout) for each pair of sizes, the last one linear only."""
    layers: list[nn.Module] = []
    for i, (n_in, n_out) in enumerate(pairwise(sizes)):
        layers.append(nn.Linear(n_in, n_out))
        if i < len(sizes) - 2:
            layers.append(nn.LeakyReLU(negative_slope, inplace=True))
            if dropout:
                layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)


def _hidden(hidden: Sequence[int]) -> tuple[int, ...]:
    return tuple(check_int(f"hidden[{i}]", n, 1) for i, n in enumerate(hidden))


@register_model("mlp_generator")
class MLPGenerator(Generator):
    """z [N, latent_dim] → images [N, channels, H, W] in [-1, 1].

    Args:
        latent_dim: length of the latent vector.
        image_size, channels: of the images; image_size is any side of a square, or (H, W).
        hidden: widths of the hidden layers, from the latent vector on.
        negative_slope: of the LeakyReLU; 0 is ReLU.

    Raises ValueError for arguments that cannot be built, and in `forward` for a z of another shape
    ([N, latent_dim, 1, 1] is accepted).
    """

    def __init__(
        self,
        latent_dim: int = 100,
        image_size: ImageSize = 28,
        channels: int = 1,
        hidden: Sequence[int] = (128, 128),
        *,
        negative_slope: float = 0.2,
    ) -> None:
        super().__init__(latent_dim, image_size, channels)
        sizes = (latent_dim, *_hidden(hidden), channels * math.prod(sides(image_size)))
        self.layers = _layers(sizes, slope("negative_slope", negative_slope))

    def forward(self, z: Tensor) -> Tensor:
        x = torch.tanh(self.layers(self.latent_vectors(z)))
        return x.unflatten(1, (self.channels, *sides(self.image_size)))


@register_model("mlp_discriminator")
class MLPDiscriminator(Discriminator):
    """Images [N, channels, H, W] → logits [N].

    Args:
        image_size, channels: of the images; image_size is any side of a square, or (H, W).
        hidden: widths of the hidden layers, from the image on.
        negative_slope: of the LeakyReLU.
        dropout: rate of dropout after each activation, in [0, 1).

    Raises ValueError for arguments that cannot be built, and in `forward` for images of another
    shape.
    """

    def __init__(
        self,
        image_size: ImageSize = 28,
        channels: int = 1,
        hidden: Sequence[int] = (128,),
        *,
        negative_slope: float = 0.2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(image_size, channels)
        sizes = (channels * math.prod(sides(image_size)), *_hidden(hidden), 1)
        self.layers = _layers(
            sizes, slope("negative_slope", negative_slope), check_share("dropout", dropout)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(self.check_images(images).flatten(1)).flatten()
