"""Images in the style of one picture: the step that learns it, and what it looks at.

Source: Johnson, Alahi, Fei-Fei 2016, "Perceptual Losses for Real-Time Style Transfer and
Super-Resolution" (arXiv:1603.08155): a network from images to images keeps what features see in an
image, and gives it the Gram matrices that they have of the picture. In place of a network of
photographs' classes stand random filters at several scales, which make textures as well
(Ustyuzhaninov, Brendel, Gatys, Bethge 2017, "What does it take to generate natural textures?") and
are nothing that has to be fetched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgan.checks import check_int
from fastgan.data.conditions import grey
from fastgan.engine.config import TrainConfig, check_number
from fastgan.engine.gan import GAN, Batch
from fastgan.engine.restoring import read_image
from fastgan.engine.translating import Losses, TranslationStep

WAVES = "waves"
"""The name of the picture that is drawn."""
_PALETTE = ((18, 44, 96), (40, 132, 160), (242, 228, 184), (226, 118, 44))
_COLOURS, _TEXTURES, _SIDE = 32, 64, 5
# At the smallest of scales an image has sides of 8 to 15; of more than four, little is left.
_MIN_SIZE, _MAX_SCALES = 8, 4


def waves(side: int) -> Tensor:
    """A picture of bands in four colours, float32 [1, 3, side, side] in [-1, 1]."""
    t = torch.arange(side) * (2 * math.pi / side)
    y, x = t[:, None], t[None]
    height = torch.sin(3 * y + 1.5 * torch.sin(2 * x)) + torch.sin(2 * x + 4 * y + torch.sin(3 * x))
    colours = torch.tensor(_PALETTE)[(height * 3).floor().long() % len(_PALETTE)]
    return colours.permute(2, 0, 1)[None] / 127.5 - 1


def read_style(style: str, size: int, channels: int) -> Tensor:
    """A picture, uint8 [C, H, W], whose shorter side is `size`: `waves`, or that of a file.

    ValueError for no file, or a picture of one colour; what `read_image` raises.
    """
    if not style:
        raise ValueError(f"style must be a picture's file, or {WAVES}, got {style!r}")
    if style == WAVES:
        image = waves(size) if channels == 3 else grey(waves(size)).expand(1, channels, -1, -1)
    else:
        image = read_image(Path(style), channels)
        height, width = image.shape[2:]
        sides = [max(size, round(s * size / min(height, width))) for s in (height, width)]
        image = F.interpolate(image, sides, mode="bilinear", antialias=True)
    picture = ((image[0].clamp(-1, 1) + 1) * 127.5).round().byte()
    if torch.equal(picture.amax((1, 2)), picture.amin((1, 2))):
        raise ValueError(f"style must have a texture, and {style} is of one colour")
    return picture


class RandomFilters(nn.Module):
    """Feature maps of images [N, channels, H, W], a list of [N, C, h, w]: of colours (random 1×1
    filters), and of texture at the whole size, a half, a quarter ... (random 5×5 filters, each
    blind to what is of one colour), behind ReLU.

    Args:
        channels: of the images.
        scales: sizes, at least one.
    """

    def __init__(self, channels: int, scales: int) -> None:
        super().__init__()
        self.scales = scales
        draw = torch.Generator().manual_seed(0)
        colours = torch.randn(_COLOURS, channels, 1, 1, generator=draw)
        textures = torch.randn(_TEXTURES, channels, _SIDE, _SIDE, generator=draw)
        textures -= textures.mean((2, 3), keepdim=True)
        self.colours: Tensor
        self.thresholds: Tensor
        self.textures: Tensor
        self.register_buffer("colours", F.normalize(colours.flatten(1)).view_as(colours))
        thresholds = torch.empty(_COLOURS).uniform_(-1, 1, generator=draw)
        self.register_buffer("thresholds", thresholds)
        self.register_buffer("textures", F.normalize(textures.flatten(1)).view_as(textures))

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [F.relu(F.conv2d(images, self.colours, self.thresholds))]
        for scale in range(self.scales):
            images = F.avg_pool2d(images, 2) if scale else images
            maps.append(F.relu(F.conv2d(images, self.textures)))
        return maps


def gram(maps: Tensor) -> Tensor:
    """Gram matrices [N, C, C] of feature maps [N, C, H, W]: means over positions."""
    flat = maps.flatten(2)
    return flat @ flat.mT / flat.shape[2]


class StyleStep(TranslationStep):
    """A step of a generator from images to images alone, towards the style of a picture.

    The content's loss is the mean squared error of the textures' maps at half the size. The
    style's is the squared distance of an image's Gram matrix from the picture's, over the square
    of the picture's, a mean over maps and images: 0 is the picture's style.

    Args:
        picture: uint8 [C, H, W]. It and its Gram matrices are part of checkpoints.
        item: the shape of an image.
        content_weight, style_weight: of the two losses.
    """

    def __init__(
        self,
        picture: Tensor,
        item: Sequence[int],
        content_weight: float = 3.0,
        style_weight: float = 1.0,
    ) -> None:
        super().__init__("image", content_weight, adversarial_weight=0.0)
        self.style_weight = style_weight
        scales = min((min(item[1:]) // _MIN_SIZE).bit_length(), _MAX_SCALES)
        self.features = RandomFilters(item[0], max(scales, 1))
        self.picture: Tensor
        self.register_buffer("picture", picture)
        for i, maps in enumerate(self.maps(self.windows(1, picture.shape[1:]))):
            self.register_buffer(f"gram{i}", gram(maps))

    def given(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """The images as they are."""
        return images

    def windows(self, count: int, size: Sequence[int]) -> Tensor:
        """The corner of the picture of that size, so many times: [count, C, *size] in [-1, 1].
        Where the picture ends it begins anew."""
        rows, columns = (
            torch.arange(side, device=self.picture.device) % own
            for side, own in zip(size, self.picture.shape[1:], strict=True)
        )
        window = self.picture[:, rows[:, None], columns].float() / 127.5 - 1
        return window.expand(count, -1, -1, -1)

    def maps(self, images: Tensor) -> list[Tensor]:
        """What the filters see in images, at least in float32."""
        with torch.autocast(images.device.type, enabled=False):
            wide = images.to(torch.promote_types(images.dtype, torch.float32))
            found: list[Tensor] = self.features(wide)
        return found

    def content(self, made: Tensor, images: Tensor) -> Tensor:
        return self.apart(self.maps(made), images)[0].mean()

    def apart(self, maps: list[Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
        """Losses [N] of what has these maps, made of images: the content's, and the style's."""
        with torch.no_grad():
            kept = self.maps(images)
        at = min(2, self.features.scales)  # behind the colours' and the whole size's
        content = (maps[at] - kept[at]).square().mean((1, 2, 3))
        with torch.autocast(images.device.type, enabled=False):
            styles = []
            for i, own in enumerate(maps):
                wanted = self.get_buffer(f"gram{i}")
                error = (gram(own) - wanted).square().sum((1, 2))
                styles.append(error / wanted.square().sum())
        return content, torch.stack(styles).mean(0)

    def losses(self, gan: GAN, made: Tensor, part: Batch) -> Losses:
        content, style = self.apart(self.maps(made), part.images)
        return {
            "loss_content": (self.content_weight, content.mean()),
            "loss_style": (self.style_weight, style.mean()),
        }


@dataclass(frozen=True)
class StyleObjective:
    """A generator that makes of each image one with its content, in the style of a picture."""

    objective: Literal["style"] = "style"
    """What the recipe's networks are trained for."""
    style: str = WAVES
    """The picture whose style is learnt: a file, or waves, which is drawn."""
    style_size: int = 128
    """The shorter side that the picture is brought to: less makes a finer texture."""
    content_weight: float = 3.0
    """Weight of the content's loss, that of the features of textures at half the size."""
    style_weight: float = 1.0
    """Weight of the style's loss, the relative error of Gram matrices."""

    def __post_init__(self) -> None:
        for name in ("content_weight", "style_weight"):
            check_number(name, getattr(self, name))
        check_int("style_size", self.style_size, 64, 4096)

    def step(self, generator: nn.Module, item: Sequence[int]) -> StyleStep:
        picture = read_style(self.style, self.style_size, item[0])
        return StyleStep(picture, item, self.content_weight, self.style_weight)

    def check(
        self, config: TrainConfig, generator: nn.Module, discriminator: nn.Module | None
    ) -> None:
        """ValueError where the networks or the configuration are not for this."""
        takes, makes, scale = (
            getattr(generator, name, None) for name in ("condition_channels", "channels", "scale")
        )
        if takes not in (1, 3) or takes != makes or scale != 1:
            raise ValueError(
                "objective style needs a generator from images, grey or of three colours, to "
                f"images like them, such as resnet_translator, got {type(generator).__name__} "
                f"from {takes} channels to {makes}"
            )
        if discriminator is not None:
            raise ValueError(
                f"objective style takes no discriminator, got {type(discriminator).__name__}"
            )
        if config.conditional or config.augment != "none":
            raise ValueError("objective style takes no conditional and no augment")
