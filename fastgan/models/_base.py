"""What every generator and discriminator shares: attributes, and checks with clear errors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgan.checks import check_int


def slope(name: str, value: float) -> float:
    """`value` if it is a finite number ≥ 0, else ValueError naming the argument."""
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}")
    return float(value)


def dropout_rate(value: float) -> float:
    """`value` if it lies in [0, 1), else ValueError."""
    if not 0 <= value < 1:
        raise ValueError(f"dropout must lie in [0, 1), got {value!r}")
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
    """A module from latent vectors [N, latent_dim] to images [N, channels, size, size] in [-1, 1].

    Attributes: latent_dim, image_size, channels; num_classes, 0 for one that takes no labels.
    """

    num_classes = 0

    def __init__(self, latent_dim: int, image_size: int, channels: int) -> None:
        super().__init__()
        self.latent_dim = check_int("latent_dim", latent_dim, 1)
        self.image_size = check_int("image_size", image_size, 1)
        self.channels = check_int("channels", channels, 1)

    def latent_vectors(self, z: Tensor) -> Tensor:
        """`z` as [N, latent_dim]; [N, latent_dim, 1, 1] is accepted. ValueError otherwise."""
        shape = tuple(z.shape)
        if shape[1:] not in ((self.latent_dim,), (self.latent_dim, 1, 1)):
            raise ValueError(
                f"z must have shape [N, {self.latent_dim}] or [N, {self.latent_dim}, 1, 1], "
                f"got {list(shape)}"
            )
        return z.flatten(1)


class Discriminator(nn.Module):
    """A module from images [N, channels, size, size] to logits [N], large where they look real.

    Attributes: image_size, channels.
    """

    def __init__(self, image_size: int, channels: int) -> None:
        super().__init__()
        self.image_size = check_int("image_size", image_size, 1)
        self.channels = check_int("channels", channels, 1)

    def check_images(self, images: Tensor) -> Tensor:
        """`images`, or ValueError if they are not [N, channels, image_size, image_size]."""
        shape = tuple(images.shape)
        if len(shape) != 4 or shape[1:] != (self.channels, self.image_size, self.image_size):
            raise ValueError(
                f"images must have shape [N, {self.channels}, {self.image_size}, "
                f"{self.image_size}], got {list(shape)}"
            )
        return images
