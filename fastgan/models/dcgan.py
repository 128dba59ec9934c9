"""DCGAN: 4×4 convolutions of stride 2, batch norm, LeakyReLU.

Source: Radford, Metz, Chintala 2016, "Unsupervised Representation Learning with Deep Convolutional
Generative Adversarial Networks" (arXiv:1511.06434), in the 4×4-kernel form of the authors' own and
the Torch implementations.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from fastgan.checks import check_int, check_share
from fastgan.nn import chain
from fastgan.system import renamed

from ._base import Discriminator, Generator, ImageSize, halved, slope
from ._blocks import LatentProjection, conv_block
from ._registry import register_model
from .init import init_weights
from .spectral import spectral_norm

Norm = Literal["batch", "none"]
DiscriminatorNorm = Literal["batch", "spectral", "none"]


def _plan(image_size: ImageSize, width: int, max_width: int) -> tuple[tuple[int, int], list[int]]:
    """The smallest feature map's sides, and the channels from the largest map to the smallest.

    Halving the sides doubles the channels, up to `max_width`; the map of half the image's sides has
    `width`.
    """
    base, halvings = halved(image_size)
    check_int("width", width, 1)
    check_int("max_width", max_width, 1)
    return base, [min(width << i, max_width) for i in range(halvings)]


def _uses_batch_norm(norm: str, others: tuple[str, ...] = ("none",)) -> bool:
    if norm not in ("batch", *others):
        listed = " or ".join(map(repr, ("batch", *others)))
        raise ValueError(f"norm must be {listed}, got {norm!r}")
    return norm == "batch"


@register_model("dcgan_generator")
class DCGANGenerator(Generator):
    """z [N, latent_dim] → images [N, channels, H, W] in [-1, 1], channels-last.

    Args:
        latent_dim: length of the latent vector.
        image_size: side of a square image or (H, W): multiples of 2^k, the shorter one 4 to 7 times
            2^k, k ≥ 1.
        channels: colour channels of the image.
        width: channels of the feature map of half the image's side ("ngf"); doubles with each
            halving of the side.
        max_width: no feature map has more channels.
        negative_slope: of the LeakyReLU; 0, the paper's choice, is ReLU.
        norm: "batch", or "none" (convolutions then have a bias).

    Raises ValueError for arguments that cannot be built, and in `forward` for a z of another shape
    ([N, latent_dim, 1, 1] is accepted).
    """

    def __init__(
        self,
        latent_dim: int = 100,
        image_size: ImageSize = 64,
        channels: int = 3,
        width: int = 64,
        *,
        max_width: int = 1024,
        negative_slope: float = 0.0,
        norm: Norm = "batch",
    ) -> None:
        super().__init__(latent_dim, image_size, channels)
        base, widths = _plan(image_size, width, max_width)
        batch_norm = _uses_batch_norm(norm)
        negative_slope = slope("negative_slope", negative_slope)

        def block(conv: nn.ConvTranspose2d) -> nn.Sequential:
            return conv_block(conv, batch_norm=batch_norm, negative_slope=negative_slope)

        widths.reverse()
        bias = not batch_norm
        self.project = block(LatentProjection(latent_dim, widths[0], base, bias=bias))
        self.blocks = nn.Sequential(
            *(
                block(nn.ConvTranspose2d(c_in, c_out, 4, 2, 1, bias=bias))
                for c_in, c_out in pairwise(widths)
            )
        )
        self.output = nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1)
        self.tanh = nn.Tanh()
        init_weights(self)

    def forward(self, z: Tensor) -> Tensor:
        return self._run(z, tanh=self.tanh)

    def logits(self, z: Tensor) -> Tensor:
        """The images before their tanh."""
        return self._run(z)

    def _run(self, z: Tensor, **last: nn.Module) -> Tensor:
        z = self.latent_vectors(z)
        return chain(z, project=self.project, blocks=self.blocks, output=self.output, **last)


@register_model("dcgan_discriminator")
class DCGANDiscriminator(Discriminator):
    """Images [N, channels, H, W] → logits [N].

    The first and the last layer have no norm.

    Args:
        image_size, channels, width, max_width: as in the generator ("ndf" is width).
        negative_slope: of the LeakyReLU.
        norm: "batch", "none", or "spectral": spectral norm of all weights instead of batch norm,
            as of Miyato et al. 2018. Without batch norm the convolutions have a bias.
        dropout: rate of dropout after each activation, in [0, 1).
        outputs: numbers an image; with more than 1 the logits are [N, outputs].

    Raises ValueError for arguments that cannot be built, and in `forward` for images of another
    shape.
    """

    def __init__(
        self,
        image_size: ImageSize = 64,
        channels: int = 3,
        width: int = 64,
        *,
        max_width: int = 1024,
        negative_slope: float = 0.2,
        norm: DiscriminatorNorm = "batch",
        dropout: float = 0.0,
        outputs: int = 1,
    ) -> None:
        super().__init__(image_size, channels)
        check_int("outputs", outputs, 1)
        base, widths = _plan(image_size, width, max_width)
        use_norm = _uses_batch_norm(norm, ("spectral", "none"))
        negative_slope = slope("negative_slope", negative_slope)
        dropout = check_share("dropout", dropout)

        def block(c_in: int, c_out: int, batch_norm: bool) -> nn.Sequential:
            return conv_block(
                nn.Conv2d(c_in, c_out, 4, 2, 1, bias=not batch_norm),
                batch_norm=batch_norm,
                negative_slope=negative_slope,
                dropout=dropout,
            )

        self.blocks = nn.Sequential(
            block(channels, widths[0], False),
            *(block(c_in, c_out, use_norm) for c_in, c_out in pairwise(widths)),
        )
        self.output = nn.Conv2d(widths[-1], outputs, base)
        init_weights(self)
        if norm == "spectral":
            spectral_norm(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.check_images(images).to(memory_format=torch.channels_last)
        return self._flat(chain(x, blocks=self.blocks, output=self.output))

    def features(self, images: Tensor) -> Tensor:
        """The last feature map, [N, C, side, side]."""
        return chain(
            self.check_images(images).to(memory_format=torch.channels_last), blocks=self.blocks
        )

    def forward_head(self, features: Tensor) -> Tensor:
        """The logits of images from their features."""
        return self._flat(chain(features, output=self.output))

    def judged(self, features: Tensor) -> Tensor:
        """`forward_head`, by its name of the last release."""
        renamed("discriminator.judged", "discriminator.forward_head")
        return self.forward_head(features)

    def _flat(self, out: Tensor) -> Tensor:
        return out.flatten() if out.shape[1] == 1 else out.flatten(1)
