"""R3GAN: residual networks without norm, of convolutions, biases and LeakyReLU.

Source: Huang, Gokaslan, Kuleshov, Tompkin 2024, "The GAN is dead; long live the GAN! A Modern GAN
Baseline" (arXiv:2501.05441), section 4 and appendix: stages of inverted-bottleneck blocks with
grouped 3×3 convolutions, Fix-up initialisation, resampling by bilinear interpolation. Here it is
interpolation at half-pixel centres, whose halving is the mean of 2×2; the authors' filter is
[1, 2, 1].
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgan.checks import check_int
from fastgan.nn import BiasAct, FusedSequential

from ._base import Discriminator, Generator, ImageSize
from ._blocks import LatentProjection
from ._registry import register_model
from .dcgan import _plan

_SLOPE = 0.2
# Of LeakyReLU: the gain that keeps the second moment (He et al. 2015).
_GAIN = math.sqrt(2 / (1 + _SLOPE**2))


class ResidualBlock(nn.Module):
    """x + conv1(act(conv3(act(conv1(x))))), wider inside; act is bias + LeakyReLU.

    Args:
        channels: of x and of the result.
        expansion: the inner width is so many times that.
        group_width: channels of a group of the 3×3 convolution; it divides the inner width.
        blocks: residual blocks of the network, which the initial scale depends on (Fix-up, Zhang,
            Dauphin, Ma 2019): every block starts as the identity.
    """

    def __init__(self, channels: int, expansion: int, group_width: int, blocks: int) -> None:
        super().__init__()
        inner = channels * expansion
        groups = inner // group_width
        self.body = FusedSequential(
            nn.Conv2d(channels, inner, 1, bias=False),
            BiasAct(inner, negative_slope=_SLOPE),
            nn.Conv2d(inner, inner, 3, padding=1, groups=groups, bias=False),
            BiasAct(inner, negative_slope=_SLOPE),
            nn.Conv2d(inner, channels, 1, bias=False),
        )
        gain = _GAIN * blocks**-0.25
        _draw(self.body[0].weight, gain)  # type: ignore[arg-type]
        _draw(self.body[2].weight, gain)  # type: ignore[arg-type]
        nn.init.zeros_(self.body[4].weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def _draw(weight: Tensor, gain: float) -> None:
    nn.init.normal_(weight, 0.0, gain / math.sqrt(weight[0].numel()))


def _stages(
    image_size: ImageSize, width: int, max_width: int, blocks: int, expansion: int, group_width: int
) -> tuple[tuple[int, int], list[int], list[list[ResidualBlock]]]:
    """The smallest sides, and channels and residual blocks from the largest map to the smallest."""
    for name, value in (("blocks", blocks), ("expansion", expansion), ("group_width", group_width)):
        check_int(name, value, 1)
    base, halved = _plan(image_size, width, max_width)
    widths = [width, *(min(2 * w, max_width) for w in halved)]
    if any(w * expansion % group_width for w in widths):
        raise ValueError(
            f"group_width must divide the inner widths {[w * expansion for w in widths]}, got "
            f"{group_width}"
        )
    total = blocks * len(widths)
    stages = [
        [ResidualBlock(w, expansion, group_width, total) for _ in range(blocks)] for w in widths
    ]
    return base, widths, stages


def _resized(c_in: int, c_out: int) -> nn.Conv2d:
    conv = nn.Conv2d(c_in, c_out, 1, bias=False)
    _draw(conv.weight, 1.0)
    return conv


@register_model("r3gan_generator")
class R3GANGenerator(Generator):
    """z [N, latent_dim] → images [N, channels, H, W], channels-last.

    The images have no tanh, as in the paper: they lie in [-1, 1] where training has brought them.

    Args:
        latent_dim: length of the latent vector.
        image_size: side of a square image or (H, W): multiples of 2^k, the shorter one 4 to 7 times
            2^k, k ≥ 1.
        channels: colour channels of the image.
        width: channels of the largest feature map; doubled with each halving of the side.
        max_width: no feature map has more channels.
        blocks: residual blocks a stage.
        expansion, group_width: of the blocks.

    Raises ValueError for arguments that cannot be built, and in `forward` for a z of another shape.
    """

    def __init__(
        self,
        latent_dim: int = 64,
        image_size: ImageSize = 32,
        channels: int = 3,
        width: int = 64,
        *,
        max_width: int = 768,
        blocks: int = 2,
        expansion: int = 2,
        group_width: int = 16,
    ) -> None:
        super().__init__(latent_dim, image_size, channels)
        base, widths, stages = _stages(image_size, width, max_width, blocks, expansion, group_width)
        self.project = LatentProjection(latent_dim, widths[-1], base, bias=False)
        nn.init.normal_(self.project.weight, 0.0, latent_dim**-0.5)
        self.stages = nn.ModuleList(nn.Sequential(*stage) for stage in reversed(stages))
        self.resize = nn.ModuleList(_resized(*pair) for pair in pairwise(reversed(widths)))
        self.output = nn.Conv2d(widths[0], channels, 1, bias=False)
        _draw(self.output.weight, 1.0)

    def forward(self, z: Tensor) -> Tensor:
        x = self.stages[0](self.project(self.latent_vectors(z)))
        for resize, stage in zip(self.resize, self.stages[1:], strict=True):
            x = F.interpolate(resize(x), scale_factor=2.0, mode="bilinear", align_corners=False)
            x = stage(x)
        return self.output(x)


@register_model("r3gan_discriminator")
class R3GANDiscriminator(Discriminator):
    """Images [N, channels, H, W] → logits [N]; the generator's mirror image.

    Arguments and errors: as the generator's, without latent_dim.
    """

    def __init__(
        self,
        image_size: ImageSize = 32,
        channels: int = 3,
        width: int = 64,
        *,
        max_width: int = 768,
        blocks: int = 2,
        expansion: int = 2,
        group_width: int = 16,
    ) -> None:
        super().__init__(image_size, channels)
        base, widths, stages = _stages(image_size, width, max_width, blocks, expansion, group_width)
        self.input = _resized(channels, widths[0])
        self.stages = nn.ModuleList(nn.Sequential(*stage) for stage in stages)
        self.resize = nn.ModuleList(_resized(*pair) for pair in pairwise(widths))
        # A weight for each position of each channel, then a mix of the channels.
        self.pool = nn.Conv2d(widths[-1], widths[-1], base, groups=widths[-1], bias=False)
        self.output = nn.Linear(widths[-1], 1, bias=False)
        _draw(self.pool.weight, 1.0)
        _draw(self.output.weight, 1.0)

    def forward(self, images: Tensor) -> Tensor:
        x = self.input(self.check_images(images).to(memory_format=torch.channels_last))
        x = self.stages[0](x)
        for resize, stage in zip(self.resize, self.stages[1:], strict=True):
            x = stage(resize(F.avg_pool2d(x, 2)))
        return self.output(self.pool(x).flatten(1)).flatten()
