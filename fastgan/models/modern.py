"""DCGAN's networks without its discriminator's norm, and with starts that suit few updates.

The discriminator's weights are drawn so that signals keep their size without a norm (He et al.
2015, "Delving Deep into Rectifiers", arXiv:1502.01852). The generator's transposed convolutions
start as bilinear interpolation of a random mix of channels (Long, Shelhamer, Darrell 2015, "Fully
Convolutional Networks", arXiv:1411.4038, section 4.1, where one channel becomes one): its first
images are smooth, where independent taps make the checkerboards that the first thousand updates go
into undoing (Odena, Dumoulin, Olah 2016, "Deconvolution and Checkerboard Artifacts").
"""

from __future__ import annotations

import math

import torch
from torch import nn

from ._base import ImageSize
from ._blocks import LatentProjection
from ._registry import register_model
from .dcgan import DCGANDiscriminator, DCGANGenerator

_SLOPE = 0.2
# Of LeakyReLU: the gain that keeps the second moment.
_GAIN = math.sqrt(2 / (1 + _SLOPE**2))
# The taps of a transposed convolution of kernel 4 and stride 2 that doubles by interpolation.
_TAPS = (0.25, 0.75, 0.75, 0.25)


@register_model("modern_generator")
class ModernGenerator(DCGANGenerator):
    """z [N, latent_dim] → images [N, channels, H, W] in [-1, 1], channels-last.

    A DCGAN generator with LeakyReLU that starts as interpolation. Arguments and errors: as
    DCGANGenerator's, without its norm and slope.
    """

    def __init__(
        self,
        latent_dim: int = 128,
        image_size: ImageSize = 64,
        channels: int = 3,
        width: int = 32,
        *,
        max_width: int = 256,
    ) -> None:
        super().__init__(
            latent_dim, image_size, channels, width, max_width=max_width, negative_slope=_SLOPE
        )
        for layer in self.modules():
            if isinstance(layer, LatentProjection):
                nn.init.normal_(layer.weight, 0.0, latent_dim**-0.5)
            elif isinstance(layer, nn.ConvTranspose2d):
                # Half of what keeps the second moment: tanh is not to start saturated.
                start_as_interpolation(layer, 0.5 if layer is self.output else 1.0)


@torch.no_grad()
def start_as_interpolation(layer: nn.ConvTranspose2d, gain: float = 1.0) -> None:
    """Draws the weight [C_in, C_out, 4, 4] of stride 2: a normal number for each pair of channels,
    of deviation gain / √C_in, times bilinear interpolation."""
    taps = torch.tensor(_TAPS, device=layer.weight.device)
    mix = torch.empty_like(layer.weight[:, :, :1, :1]).normal_(0.0, gain / len(layer.weight) ** 0.5)
    layer.weight.copy_(mix * torch.outer(taps, taps))


@register_model("modern_discriminator")
class ModernDiscriminator(DCGANDiscriminator):
    """Images [N, channels, H, W] → logits [N]. No norm: images are treated apart.

    Arguments and errors: as DCGANDiscriminator's, without its norm, slope, dropout and outputs.
    """

    def __init__(
        self,
        image_size: ImageSize = 64,
        channels: int = 3,
        width: int = 32,
        *,
        max_width: int = 256,
    ) -> None:
        super().__init__(
            image_size, channels, width, max_width=max_width, negative_slope=_SLOPE, norm="none"
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                gain = 1.0 if layer is self.output else _GAIN
                nn.init.normal_(layer.weight, 0.0, gain / math.sqrt(layer.weight[0].numel()))
