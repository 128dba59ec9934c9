"""Networks of two domains: a generator each way, and a discriminator of each.

Source: Zhu, Park, Isola, Efros 2017, "Unpaired Image-to-Image Translation using Cycle-Consistent
Adversarial Networks" (arXiv:1703.10593); the generator is that of Johnson, Alahi, Fei-Fei 2016.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn

from fastgan.checks import check_int
from fastgan.nn import InstanceNormAct2d, chain

from ._base import Translator
from ._registry import register_model
from .init import init_weights
from .translation import PatchDiscriminator

# Sides of images, whose borders are reflected, also at a quarter of them.
_SMALLEST = 8


def _block(conv: nn.Conv2d | nn.ConvTranspose2d, slope: float = 0.0) -> nn.Sequential:
    """A convolution whose border, if it keeps the sides, is reflected; then the norm of each image
    and LeakyReLU."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if conv.stride == (1, 1):
        layers["pad"] = nn.ReflectionPad2d(conv.kernel_size[0] // 2)
    layers["conv"] = conv
    layers["norm"] = InstanceNormAct2d(conv.out_channels, negative_slope=slope)
    return nn.Sequential(layers)


class _ResidualBlock(nn.Module):
    """x + (convolution → norm → ReLU → convolution → norm)(x)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _block(nn.Conv2d(width, width, 3, bias=False))
        self.last = _block(nn.Conv2d(width, width, 3, bias=False), 1.0)

    def forward(self, x: Tensor) -> Tensor:
        return x + chain(x, first=self.first, last=self.last)


@register_model("resnet_translator")
class ResNetTranslator(Translator):
    """Images [N, condition_channels, H, W] → images [N, channels, H, W] in [-1, 1].

    A 7×7 convolution, two of stride 2, residual blocks at a quarter of the sides, and two
    transposed ones up again; every image has a norm of its own.

    Args:
        channels, condition_channels: of the images, and of what they are made of.
        width: channels of the first layer; four times that in the blocks.
        blocks: residual blocks; the paper has 6 at 128×128, 9 at 256×256.

    Raises ValueError for arguments that cannot be built, and for images of another shape or with
    sides that are below 8 or no multiples of 4.
    """

    multiple = 4

    def __init__(
        self, channels: int = 3, condition_channels: int = 3, width: int = 64, *, blocks: int = 9
    ) -> None:
        super().__init__(channels, condition_channels)
        check_int("width", width, 1)
        check_int("blocks", blocks, 1, 1000)
        self.input = _block(nn.Conv2d(condition_channels, width, 7, bias=False))
        self.down = nn.Sequential(
            *(_block(nn.Conv2d(c, 2 * c, 3, 2, 1, bias=False)) for c in (width, 2 * width))
        )
        self.blocks = nn.ModuleList(_ResidualBlock(4 * width) for _ in range(blocks))
        self.up = nn.Sequential(
            *(
                _block(nn.ConvTranspose2d(2 * c, c, 3, 2, 1, 1, bias=False))
                for c in (2 * width, width)
            )
        )
        self.pad = nn.ReflectionPad2d(3)
        self.output = nn.Conv2d(width, channels, 7)
        self.tanh = nn.Tanh()
        init_weights(self)

    def forward(self, condition: Tensor) -> Tensor:
        images = self.check_condition(condition).to(memory_format=torch.channels_last)
        if min(images.shape[2:]) < _SMALLEST:
            raise ValueError(
                f"condition must have sides of at least {_SMALLEST}, got {list(condition.shape)}"
            )
        x = chain(images, input=self.input, down=self.down)
        for block in self.blocks:
            x = block(x)
        return chain(x, up=self.up, pad=self.pad, output=self.output, tanh=self.tanh)


@register_model("cycle_generator")
class CycleGenerator(Translator):
    """Images of domains A and B, [N, 2·channels, H, W] one behind the other → each translated.

    What was made of B's image, an image of A, comes first: a second pass has the images that came
    round again where they were. A single image goes through `forth` or `back`.

    Args:
        channels: of the images of each domain.
        width, blocks: as ResNetTranslator's.

    Attributes: forth, from A to B, and back: a `ResNetTranslator` each; channels and
    condition_channels are of the two images together.
    """

    multiple = 4

    def __init__(self, channels: int = 3, width: int = 64, *, blocks: int = 9) -> None:
        check_int("channels", channels, 1)
        super().__init__(2 * channels, 2 * channels)
        self.forth = ResNetTranslator(channels, channels, width, blocks=blocks)
        self.back = ResNetTranslator(channels, channels, width, blocks=blocks)

    def forward(self, condition: Tensor) -> Tensor:
        first, second = self.check_condition(condition).chunk(2, 1)
        return torch.cat([self.back(second), self.forth(first)], 1)

    def pictures(self, items: Tensor) -> Tensor:
        """[N, channels, H, 2·W]: the image of A, and that of B beside it."""
        return torch.cat(items.chunk(2, 1), 3)


@register_model("cycle_discriminator")
class CycleDiscriminator(nn.Module):
    """Images of domains A and B, [N, 2·channels, H, W] → logits [N, patches], of both domains.

    A `PatchDiscriminator` of each domain.

    Args:
        channels: of the images of each domain.
        width, layers, norm: as PatchDiscriminator's, of both.
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 64,
        *,
        layers: int = 3,
        norm: Literal["batch", "instance", "spectral", "none"] = "instance",
    ) -> None:
        super().__init__()
        self.channels = 2 * check_int("channels", channels, 1)
        self.of_a = PatchDiscriminator(channels, 0, width, layers=layers, norm=norm)
        self.of_b = PatchDiscriminator(channels, 0, width, layers=layers, norm=norm)

    def forward(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        if images.dim() != 4 or images.shape[1] != self.channels:
            raise ValueError(
                f"images must have shape [N, {self.channels}, H, W], got {list(images.shape)}"
            )
        first, second = images.chunk(2, 1)
        return torch.cat([self.of_a(first).flatten(1), self.of_b(second).flatten(1)], 1)
