"""DiffAugment: colour, translation and cutout.

Source: Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training"
(arXiv:2006.10738), section 3 and the authors' settings.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.augment._base import Augmentation, checked, register
from fastgan.augment._pixels import coordinates, shift
from fastgan.checks import check_share


def _uniform(images: Tensor, low: float, high: float) -> Tensor:
    """A number an image, [N, 1, 1, 1]."""
    shape = (len(images), 1, 1, 1)
    return torch.rand(shape, device=images.device, dtype=images.dtype) * (high - low) + low


def _integers(images: Tensor, low: int, high: int) -> Tensor:
    """An integer an image in [low, high), [N]."""
    return torch.randint(low, high, (len(images),), device=images.device)


def brightness(images: Tensor) -> Tensor:
    """Adds U(-½, ½) to an image."""
    return images + _uniform(images, -0.5, 0.5)


def saturation(images: Tensor) -> Tensor:
    """Scales the distance from a pixel's mean over channels by U(0, 2); one channel stays."""
    if images.shape[1] == 1:
        return images
    mean = images.mean(1, keepdim=True)
    return (images - mean) * _uniform(images, 0.0, 2.0) + mean


def contrast(images: Tensor) -> Tensor:
    """Scales the distance from an image's mean by U(½, 1½)."""
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * _uniform(images, 0.5, 1.5) + mean


def translation(images: Tensor, ratio: float = 0.125) -> Tensor:
    """Moves an image by up to `ratio` of its sides, in whole pixels; zeros come in."""
    far_down, far_right = (int(side * ratio + 0.5) for side in images.shape[2:])
    down = _integers(images, -far_down, far_down + 1)
    return shift(images, down, _integers(images, -far_right, far_right + 1))


def cutout(images: Tensor, ratio: float = 0.5) -> Tensor:
    """Zeroes a rectangle of `ratio` of the sides, anywhere; it may lie partly outside."""
    inside = torch.ones((), dtype=torch.bool, device=images.device)
    for side, position in zip(images.shape[2:], coordinates(images), strict=True):
        size = int(side * ratio + 0.5)
        # Centred on a pixel if the size is odd, between two if it is even.
        start = _integers(images, 0, side + (1 - size % 2)).view(-1, 1, 1) - size // 2
        inside = inside & (position >= start) & (position < start + size)
    return images.masked_fill(inside.unsqueeze(1), 0.0)


_POLICIES = {
    "color": (brightness, saturation, contrast),
    "translation": (translation,),
    "cutout": (cutout,),
}


@register("diffaugment")
class DiffAugment(Augmentation):
    """The parts of `policy`, always all of them, with strengths drawn anew for each image.

    Args:
        policy: parts of "color,translation,cutout", in the order in which they act.
        translation: the farthest move, of an image's sides.
        cutout: the rectangle's sides, of an image's.

    Raises ValueError for an unknown part, or a ratio outside [0, 1]; in `forward` TypeError and
    ValueError for what is no batch of images.
    """

    def __init__(
        self,
        policy: str = "color,translation,cutout",
        *,
        translation: float = 0.125,
        cutout: float = 0.5,
    ) -> None:
        super().__init__()
        self.policy = [part.strip() for part in policy.split(",") if part.strip()]
        for part in self.policy:
            if part not in _POLICIES:
                raise ValueError(f"policy: unknown part {part!r}; there are {', '.join(_POLICIES)}")
        self.ratios = {
            "translation": float(check_share("translation", translation, "[0, 1]")),
            "cutout": float(check_share("cutout", cutout, "[0, 1]")),
        }

    def forward(self, images: Tensor) -> Tensor:
        x = checked(images)
        for part in self.policy:
            ratio = {"ratio": self.ratios[part]} if part in self.ratios else {}
            for change in _POLICIES[part]:
                x = change(x, **ratio)
        return x.to(images.dtype)

    def extra_repr(self) -> str:
        return ",".join(self.policy)
