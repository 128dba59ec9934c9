"""Networks that give images back what they lack: resolution, or what a hole hides.

Sources: Ledig et al. 2017, "Photo-Realistic Single Image Super-Resolution Using a Generative
Adversarial Network" (arXiv:1609.04802); Iizuka, Simo-Serra, Ishikawa 2017, "Globally and Locally
Consistent Image Completion".
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgan.checks import check_choice, check_int
from fastgan.nn import chain

from ._base import Translator
from ._blocks import conv_block
from ._registry import register_model
from .translation import PatchDiscriminator, UNet

_SLOPE = 0.2
# A deep sum of blocks starts near its input, and the whole near bicubic interpolation.
_GAIN = 0.1


def _conv(c_in: int, c_out: int, gain: float = 1.0, *, bias: bool = True) -> nn.Conv2d:
    """3×3, of sides that stay, drawn after He et al. 2015, times `gain`."""
    conv = nn.Conv2d(c_in, c_out, 3, 1, 1, bias=bias)
    nn.init.kaiming_normal_(conv.weight, _SLOPE)
    with torch.no_grad():
        conv.weight.mul_(gain)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


class _ResidualBlock(nn.Module):
    """x + (convolution → norm → LeakyReLU → convolution → norm)(x)."""

    def __init__(self, width: int, batch_norm: bool) -> None:
        super().__init__()
        first = _conv(width, width, bias=not batch_norm)
        self.first = conv_block(first, batch_norm=batch_norm, negative_slope=_SLOPE)
        conv = _conv(width, width, _GAIN, bias=not batch_norm)
        last: OrderedDict[str, nn.Module] = OrderedDict(conv=conv)
        if batch_norm:
            last["norm"] = nn.BatchNorm2d(width)
        self.last = nn.Sequential(last)

    def forward(self, x: Tensor) -> Tensor:
        return x + chain(x, first=self.first, last=self.last)


@register_model("srresnet")
class SRResNet(Translator):
    """Images [N, channels, H, W] → [N, channels, scale·H, scale·W], of any size.

    The network adds to bicubic interpolation what that lacks; in eval mode its output is cut to
    [-1, 1]. Residual blocks at the low resolution, then convolution → pixel shuffle → LeakyReLU for
    each doubling (Shi et al. 2016).

    Args:
        channels: of the images.
        width: channels of every feature map.
        blocks: residual blocks; the paper has 16.
        scale: 2, 4 or 8.
        norm: "batch", as in the paper, or "none", as in EDSR (Lim et al. 2017).

    Attributes: reach, how many pixels of its input on each side a pixel's outputs depend on.

    Raises ValueError for arguments that cannot be built, and for images of another shape.
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 64,
        *,
        blocks: int = 16,
        scale: int = 4,
        norm: Literal["batch", "none"] = "none",
    ) -> None:
        super().__init__(channels, channels)
        check_int("width", width, 1)
        check_int("blocks", blocks, 1, 1000)
        check_choice("norm", norm, ("batch", "none"))
        if scale not in (2, 4, 8):
            raise ValueError(f"scale must be 2, 4 or 8, got {scale!r}")
        self.scale = scale
        doublings = scale.bit_length() - 1
        # A pixel a convolution at the low resolution: the first, two a block, the tail, the first
        # doubling's. Those behind reach half as far as the one before, less than one in all;
        # bicubic interpolation, beside them, two.
        self.reach = 2 * blocks + 4
        self.input = conv_block(_conv(channels, width), batch_norm=False, negative_slope=_SLOPE)
        self.blocks = nn.ModuleList(_ResidualBlock(width, norm == "batch") for _ in range(blocks))
        self.tail = _conv(width, width)
        self.up = nn.ModuleList(
            nn.Sequential(
                OrderedDict(
                    conv=_conv(width, 4 * width),
                    shuffle=nn.PixelShuffle(2),
                    act=nn.LeakyReLU(_SLOPE),
                )
            )
            for _ in range(doublings)
        )
        self.output = _conv(width, channels, _GAIN)

    def forward(self, condition: Tensor) -> Tensor:
        images = self.check_condition(condition).to(memory_format=torch.channels_last)
        x = first = chain(images, input=self.input)
        for block in self.blocks:
            x = block(x)
        x = first + chain(x, tail=self.tail)
        for block in self.up:
            x = chain(x, block=block)
        base = F.interpolate(images, scale_factor=float(self.scale), mode="bicubic")
        made = base + chain(x, output=self.output)
        return made if self.training else made.clamp(-1, 1)


@register_model("inpainter")
class Inpainter(UNet):
    """Images with a hole and its mask, [N, channels + 1, H, W] → the images, the hole filled.

    A `UNet` whose output is used where the last channel, the mask, is 1; elsewhere the images are
    what they were, to the bit.

    Args: `UNet`'s, without condition_channels.
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 64,
        *,
        depth: int = 5,
        max_width: int = 512,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            channels, channels + 1, width, depth=depth, max_width=max_width, dropout=dropout
        )

    def forward(self, condition: Tensor) -> Tensor:
        made = super().forward(condition)
        return torch.where(condition[:, -1:] > 0, made, condition[:, :-1].to(made.dtype))


@register_model("inpainting_discriminator")
class InpaintingDiscriminator(nn.Module):
    """Images [N, channels, H, W] and what they were made of → logits [N, patches].

    Two `PatchDiscriminator`: one sees the whole image beside the mask, the other a window of half
    the sides around the middle of the hole.

    Args:
        channels, width, layers, norm: as PatchDiscriminator's, of both.
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 64,
        *,
        layers: int = 3,
        norm: Literal["batch", "spectral", "none"] = "batch",
    ) -> None:
        super().__init__()
        self.channels = check_int("channels", channels, 1)
        self.whole = PatchDiscriminator(channels, 1, width, layers=layers, norm=norm)
        self.window = PatchDiscriminator(channels, 1, width, layers=layers, norm=norm)

    def forward(self, images: Tensor, condition: Tensor) -> Tensor:
        mask = condition[:, -1:]
        parts = self.whole(images, mask), self.window(*around_hole(images, mask))
        return torch.cat([part.flatten(1) for part in parts], 1)


def around_hole(images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Windows of half the sides of images [N, C, H, W] and masks [N, 1, H, W], each around the
    middle of its hole as far as the image reaches.
    """
    both = torch.cat([images, mask.to(images.dtype)], 1)
    found = []
    weights = mask.float().sum((1, 2, 3)).clamp_min(1)
    for dim, side in ((2, images.shape[2]), (3, images.shape[3])):
        half, at = side // 2, torch.arange(side, device=images.device)
        over = mask.float().sum((1, 5 - dim))
        middle = (over * at).sum(1) / weights
        first = (middle - (half - 1) / 2).round().long().clamp(0, side - half)
        found.append(first[:, None] + at[:half])
    rows, columns = found
    of = torch.arange(len(images), device=images.device)
    window = both.permute(0, 2, 3, 1)[of[:, None, None], rows[:, :, None], columns[:, None, :]]
    window = window.permute(0, 3, 1, 2)
    return window[:, :-1], window[:, -1:]
