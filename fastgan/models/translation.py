"""Networks from images to images, and the discriminator of their patches.

Source: Isola, Zhu, Zhou, Efros 2017, "Image-to-Image Translation with Conditional Adversarial
Networks" (arXiv:1611.07004): a U-Net (Ronneberger et al. 2015) and a PatchGAN.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from fastgan.checks import check_choice, check_int, check_share
from fastgan.nn import chain

from ._base import Translator
from ._blocks import conv_block
from ._registry import register_model
from .init import init_weights
from .spectral import spectral_norm

_SLOPE = 0.2


@register_model("unet")
class UNet(Translator):
    """Conditions [N, condition_channels, H, W] → images [N, channels, H, W] in [-1, 1].

    4×4 convolutions of stride 2 down to H / 2^depth and transposed ones up again; what a level of
    the way down made is given to the same level of the way up.

    Args:
        channels, condition_channels: of the images, and of what they are made of.
        width: channels of the first level; doubles with each, up to `max_width`.
        depth: levels, at least 2. H and W must be multiples of 2^depth.
        dropout: after the (at most three) innermost levels of the way up; the paper's only noise.

    Raises ValueError for arguments that cannot be built, and for conditions of another shape.
    """

    def __init__(
        self,
        channels: int = 3,
        condition_channels: int = 1,
        width: int = 64,
        *,
        depth: int = 5,
        max_width: int = 512,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(channels, condition_channels)
        check_int("width", width, 1)
        check_int("depth", depth, 2, 16)
        self.multiple = 1 << depth
        dropout = check_share("dropout", dropout)
        widths = [min(width << i, check_int("max_width", max_width, 1)) for i in range(depth)]
        self.down = nn.ModuleList(
            conv_block(
                nn.Conv2d(c_in, c_out, 4, 2, 1, bias=i == 0),
                batch_norm=i > 0,
                negative_slope=_SLOPE,
            )
            for i, (c_in, c_out) in enumerate(pairwise([condition_channels, *widths]))
        )
        inner = [widths[-1], *(2 * w for w in widths[-2:0:-1])]
        self.up = nn.ModuleList(
            conv_block(
                nn.ConvTranspose2d(c_in, c_out, 4, 2, 1, bias=False),
                batch_norm=True,
                negative_slope=0.0,
                dropout=dropout if i < 3 else 0.0,
            )
            for i, (c_in, c_out) in enumerate(zip(inner, widths[-2::-1], strict=True))
        )
        self.output = nn.ConvTranspose2d(2 * widths[0], channels, 4, 2, 1)
        self.tanh = nn.Tanh()
        init_weights(self)

    def forward(self, condition: Tensor) -> Tensor:
        x = self.check_condition(condition).to(memory_format=torch.channels_last)
        seen = []
        for block in self.down:
            x = chain(x, block=block)
            seen.append(x)
        for block, skipped in zip(self.up, seen[-2::-1], strict=True):
            x = torch.cat([chain(x, block=block), skipped], 1)
        return chain(x, output=self.output, tanh=self.tanh)


@register_model("patch_discriminator")
class PatchDiscriminator(nn.Module):
    """Images [N, channels, H, W] (and conditions) → logits [N, 1, h, w], one a patch.

    4×4 convolutions: `layers` of stride 2, one of stride 1, and one to the logits. With the paper's
    three layers each logit sees 70×70 pixels.

    Args:
        channels: of the images.
        condition_channels: of the conditions that are looked at beside the images, of their sides;
            0 takes conditions and does not look at them.
        width: channels of the first layer; doubles with each, up to 8 times that.
        norm: "batch", "instance", "spectral" (of all weights) or "none".

    Raises ValueError for arguments that cannot be built, and for images of another shape.
    """

    def __init__(
        self,
        channels: int = 3,
        condition_channels: int = 0,
        width: int = 64,
        *,
        layers: int = 3,
        norm: Literal["batch", "instance", "spectral", "none"] = "batch",
    ) -> None:
        super().__init__()
        self.channels = check_int("channels", channels, 1)
        self.condition_channels = check_int("condition_channels", condition_channels, 0)
        check_int("width", width, 1)
        check_int("layers", layers, 1, 8)
        check_choice("norm", norm, ("batch", "instance", "spectral", "none"))
        normed = norm in ("batch", "instance")
        widths = [width << min(i, 3) for i in range(layers + 1)]
        sides = pairwise([channels + condition_channels, *widths])
        self.blocks = nn.Sequential(
            *(
                conv_block(
                    nn.Conv2d(c_in, c_out, 4, 1 + (i < layers), 1, bias=i == 0 or not normed),
                    batch_norm=i > 0 and norm == "batch",
                    instance_norm=i > 0 and norm == "instance",
                    negative_slope=_SLOPE,
                )
                for i, (c_in, c_out) in enumerate(sides)
            )
        )
        self.output = nn.Conv2d(widths[-1], 1, 4, 1, 1)
        init_weights(self)
        if norm == "spectral":
            spectral_norm(self)

    def forward(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        return chain(self._seen(images, condition), blocks=self.blocks, output=self.output)

    def features(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        """The last feature map, [N, C, h + 1, w + 1]."""
        return chain(self._seen(images, condition), blocks=self.blocks)

    def _seen(self, images: Tensor, condition: Tensor | None) -> Tensor:
        if images.dim() != 4 or images.shape[1] != self.channels:
            raise ValueError(
                f"images must have shape [N, {self.channels}, H, W], got {list(images.shape)}"
            )
        if self.condition_channels:
            expected = len(images), self.condition_channels, *images.shape[2:]
            if condition is None or tuple(condition.shape) != expected:
                found = None if condition is None else list(condition.shape)
                raise ValueError(f"condition must have shape {list(expected)}, got {found}")
            images = torch.cat([images, condition], 1)
        return images.to(memory_format=torch.channels_last)
