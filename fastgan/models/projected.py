"""A discriminator of what a frozen, pretrained network sees: Projected GANs.

Source: Sauer, Chitta, Müller, Geiger 2021, "Projected GANs Converge Faster" (arXiv:2111.01007),
section 3. What differs: maps are not enlarged once more after they were mixed; a map is brought to
another's channels before it is enlarged, which is the same and takes a quarter of the products; all
heads come down to maps of alike size, so that each scale has about as many logits.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgan.checks import check_int, check_size, sides
from fastgan.nn import FusedSequential

from ._base import Discriminator, ImageSize
from ._blocks import conv_block
from ._registry import register_model
from .backbones import Backbone, get_backbone
from .init import init_weights
from .spectral import spectral_norm

_SLOPE = 0.2
_SMALLEST = 4  # the side of a map that its last convolution sees


@register_model("projected_discriminator")
class ProjectedDiscriminator(Discriminator):
    """Images [N, channels, H, W] → logits [N, n]: those of all heads, one a part of a map.

    A frozen backbone makes maps f_1 (large) to f_k. Random convolutions 1×1, which are never
    trained, mix channels and scales: y_k = A_k f_k and y_i = A_i f_i + up(B_i y_(i+1)), where up
    doubles the sides, bilinearly. Each y_i has a head of its own: convolutions 4×4 of stride 2,
    each followed by batch norm and LeakyReLU, and one to logits.

    The state_dict has the heads and the mixing, and of the backbone its name and digest alone, as
    the name of an empty tensor: a checkpoint stays small and is refused by another backbone.

    Args:
        image_size: side of a square image or (H, W).
        channels: 3, or 1, which is repeated.
        width: channels of y_1; doubled from one to the next.
        max_width: no map of a head has more channels.
        backbone: its name, as `get_backbone` takes it.
        resolution: images are brought to this side, or (H, W), before the backbone; by default they
            stay as they are. Multiples of the backbone's last stride.
        spectral: spectral norm of the heads' weights.

    Raises ValueError for arguments that cannot be built, the errors of `get_backbone`, and in
    `forward` ValueError for images of another shape.
    """

    def __init__(
        self,
        image_size: ImageSize = 64,
        channels: int = 3,
        width: int = 64,
        *,
        max_width: int = 256,
        backbone: str = "efficientnet-lite1",
        resolution: ImageSize | None = None,
        spectral: bool = True,
    ) -> None:
        super().__init__(image_size, channels)
        check_int("width", width, 1)
        check_int("max_width", max_width, 1)
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, as a backbone is of colour, got {channels}")
        seen = image_size if resolution is None else check_size("resolution", resolution)
        self.resolution = sides(seen)
        # In a tuple: no child, so that neither the state_dict nor the optimizers have its weights.
        self._backbone = (get_backbone(backbone),)
        strides = self.backbone.strides
        if any(side % strides[-1] for side in self.resolution):
            near = (max(1, round(side / strides[-1])) * strides[-1] for side in self.resolution)
            raise ValueError(
                f"resolution (by default image_size) must be multiples of {strides[-1]} for "
                f"{backbone}, got {'x'.join(map(str, self.resolution))}: the nearest is "
                f"{'x'.join(map(str, near))}"
            )
        self.register_buffer(f"backbone_{_tensor_name(self.backbone)}", torch.empty(0))
        widths = [width << i for i in range(len(strides))]
        for i, (c_in, c_out) in enumerate(zip(self.backbone.channels, widths, strict=True)):
            self.register_buffer(f"mix{i}", _random(c_in, c_out))
        for i, (c_out, c_in) in enumerate(pairwise(widths)):
            self.register_buffer(f"down{i}", _random(c_in, c_out))
        shorter = min(self.resolution)
        self.heads = nn.ModuleList(
            _head(c, shorter // stride, max_width)
            for c, stride in zip(widths, strides, strict=True)
        )
        init_weights(self.heads)
        if spectral:
            spectral_norm(self.heads)

    @property
    def backbone(self) -> Backbone:
        return self._backbone[0]

    def forward(self, images: Tensor) -> Tensor:
        maps = self.mixed(images)
        logits = [head(x).flatten(1) for head, x in zip(self.heads, maps, strict=True)]
        return torch.cat(logits, 1)

    def mixed(self, images: Tensor) -> list[Tensor]:
        """The maps y_1 to y_k that the heads are given."""
        x = self.check_images(images)
        if x.shape[2:] != self.resolution:
            x = F.interpolate(x, self.resolution, mode="bilinear", antialias=True)
        maps = self.backbone(x.contiguous(memory_format=torch.channels_last))
        mixed: list[Tensor] = []
        for i in reversed(range(len(maps))):
            y = F.conv2d(maps[i], self.get_buffer(f"mix{i}"))
            if mixed:
                below = F.conv2d(mixed[0], self.get_buffer(f"down{i}"))
                y = y + F.interpolate(below, scale_factor=2, mode="bilinear")
            mixed.insert(0, y)
        return mixed

    def _apply(self, fn: Any, recurse: bool = True) -> ProjectedDiscriminator:
        self.backbone._apply(fn, recurse)
        return super()._apply(fn, recurse)


def _tensor_name(backbone: Backbone) -> str:
    # A name of a tensor has no dots.
    return f"{backbone.name.replace('.', '-')}_{backbone.digest[:16]}"


def _random(c_in: int, c_out: int) -> Tensor:
    """A convolution 1×1 that keeps the second moment of ReLU's outputs (He et al. 2015)."""
    return nn.init.kaiming_normal_(torch.empty(c_out, c_in, 1, 1))


def _head(channels: int, side: int, max_width: int) -> FusedSequential:
    """Maps of a side to logits, over 1 / 2^i of the side that is _SMALLEST to twice that."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    while side >= 2 * _SMALLEST or not layers:
        if side >= 2 * _SMALLEST:
            wider, side = min(2 * channels, max_width), side // 2
            conv = nn.Conv2d(channels, wider, 4, 2, 1, bias=False)
        else:
            wider = min(channels, max_width)
            conv = nn.Conv2d(channels, wider, 1, bias=False)
        layers[f"block{len(layers)}"] = conv_block(conv, batch_norm=True, negative_slope=_SLOPE)
        channels = wider
    layers["output"] = nn.Conv2d(channels, 1, 3 if side > 2 else 1)
    return FusedSequential(layers)
