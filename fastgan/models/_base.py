"""What every generator and discriminator shares: attributes, and checks with clear errors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastgan.checks import check_int, check_size, sides
from fastgan.nn.latent import latent_vectors

# Of a square, or (height, width); of volumes (depth, height, width).
ImageSize = int | tuple[int, ...]


def halved(image_size: ImageSize, smallest: int = 4) -> tuple[tuple[int, int], int]:
    """The sides of the smallest feature map of an image, and how often they double up to it.

    Of the sides, which are multiples of 2^k, the shorter is `smallest` to 2·`smallest` - 1 times
    that, k ≥ 1. ValueError for others names the nearest.
    """
    height, width = sides(check_size("image_size", image_size))
    k = max(1, (min(height, width) // smallest).bit_length() - 1)
    if min(height, width) >> k >= smallest and not (height | width) & ((1 << k) - 1):
        return (height >> k, width >> k), k
    shorter = [n << i for i in (k, k + 1) for n in range(smallest, 2 * smallest)]
    near = min(shorter, key=lambda side: abs(side - min(height, width)))
    step = 1 << ((near // smallest).bit_length() - 1)
    square = height == width
    longer = near if square else max(near, round(max(height, width) / step) * step)
    nearest = (near, longer) if height <= width else (longer, near)
    raise ValueError(
        f"image_size must have sides that are multiples of 2^k, the shorter one {smallest} to "
        f"{2 * smallest - 1} times 2^k, k at least 1 (such as 28, 48, 64, 96x160), got "
        f"{_written(image_size)}: the nearest is {_written(nearest)}"
    )


def quartered(image_size: ImageSize) -> tuple[int, int]:
    """A quarter of the sides; ValueError, naming the nearest, if they are no multiples of 4."""
    size = sides(check_size("image_size", image_size))
    if any(side % 4 for side in size):
        near = (max(4, round(side / 4) * 4) for side in size)
        raise ValueError(
            f"image_size must be a multiple of 4, got {_written(image_size)}: the nearest is "
            f"{_written(tuple(near))}"
        )
    return size[0] // 4, size[1] // 4


def _written(image_size: Any) -> str:
    height, width = sides(image_size)
    return f"{height}" if height == width else f"{height}x{width}"


def slope(name: str, value: float) -> float:
    """`value` if it is a finite number ≥ 0, else ValueError naming the argument."""
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}")
    return float(value)


def check_labels(labels: Tensor | None, count: int) -> Tensor:
    """`labels` if they are int64 [count], else ValueError. Their range is not looked at here."""
    if labels is None:
        raise ValueError(f"labels: a conditional network needs int64 [{count}], got None")
    if labels.dtype != torch.int64 or tuple(labels.shape) != (count,):
        raise ValueError(
            f"labels must be int64 of shape [{count}], one an image, got {labels.dtype} of shape "
            f"{list(labels.shape)}"
        )
    return labels


class Generator(nn.Module):
    """A module from latent vectors [N, latent_dim] to images [N, channels, H, W] in [-1, 1].

    Attributes: latent_dim; image_size, the side of a square or (H, W); channels; num_classes, 0 for
    one that takes no labels.
    """

    num_classes = 0

    def __init__(self, latent_dim: int, image_size: ImageSize, channels: int) -> None:
        super().__init__()
        self.latent_dim = check_int("latent_dim", latent_dim, 1)
        self.image_size = check_size("image_size", image_size, dims=(1, 2, 3))
        self.channels = check_int("channels", channels, 1)

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Of what it draws: [channels, L], [channels, H, W] or [channels, D, H, W]."""
        return self.channels, *sides(self.image_size)

    def latent_vectors(self, z: Tensor) -> Tensor:
        """`z` as [N, latent_dim]; [N, latent_dim, 1, 1] is accepted. ValueError otherwise."""
        return latent_vectors(z, self.latent_dim)


class Translator(nn.Module):
    """A generator that takes a condition [N, condition_channels, H, W] and no noise, to images
    [N, channels, H', W'] in [-1, 1], of any size.

    Attributes: channels, condition_channels; latent_dim, which is 0; scale, H' / H; multiple, of
    which H and W must be multiples.
    """

    latent_dim = 0
    num_classes = 0
    scale = 1
    multiple = 1

    def __init__(self, channels: int, condition_channels: int) -> None:
        super().__init__()
        self.channels = check_int("channels", channels, 1)
        self.condition_channels = check_int("condition_channels", condition_channels, 1)

    def check_condition(self, condition: Tensor) -> Tensor:
        """`condition`, or ValueError if it is of another shape."""
        shape, m = tuple(condition.shape), self.multiple
        if len(shape) != 4 or shape[1] != self.condition_channels or shape[2] % m or shape[3] % m:
            sides = "H, W" if m == 1 else f"H, W multiples of {m}"
            raise ValueError(
                f"condition must have shape [N, {self.condition_channels}, H, W]"
                f"{'' if m == 1 else f', {sides}'}, got {list(shape)}"
            )
        return condition


class Discriminator(nn.Module):
    """A module from images [N, channels, H, W] to logits [N], large where they look real.

    Attributes: image_size, the side of a square or (H, W); channels.
    """

    def __init__(self, image_size: ImageSize, channels: int) -> None:
        super().__init__()
        self.image_size = check_size("image_size", image_size, dims=(1, 2, 3))
        self.channels = check_int("channels", channels, 1)

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Of what it takes: [channels, H, W], or [channels, D, H, W]."""
        return self.channels, *sides(self.image_size)

    def check_images(self, images: Tensor) -> Tensor:
        """`images`, or ValueError if they are not [N, channels, H, W]."""
        shape, item = tuple(images.shape), self.item_shape
        if shape[1:] != item:
            raise ValueError(
                f"images must have shape [N, {', '.join(map(str, item))}], got {list(shape)}"
            )
        return images
