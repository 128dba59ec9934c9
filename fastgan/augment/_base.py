"""What every augmentation is, and the register of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fastgan.checks import unknown

_Class = TypeVar("_Class", bound="type[Augmentation]")

_AUGMENTATIONS: dict[str, type[Augmentation]] = {}


class Augmentation(nn.Module):
    """Images `[N, C, H, W]` to images of that shape and dtype; see the package's text.

    It acts in training and evaluation mode alike: who wants plain images does not call it.
    """

    def forward(self, images: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def update(self, real_logits: Tensor) -> None:
        """Take note of one update of the discriminator and its logits of augmented real images."""


class Chain(Augmentation):
    """Augmentations one after the other."""

    def __init__(self, *augmentations: Augmentation) -> None:
        super().__init__()
        for i, augmentation in enumerate(augmentations):
            if not isinstance(augmentation, Augmentation):
                raise TypeError(f"augmentations[{i}] must be an Augmentation, got {augmentation!r}")
        self.augmentations = nn.ModuleList(augmentations)

    def forward(self, images: Tensor) -> Tensor:
        for augmentation in self.augmentations:
            images = augmentation(images)
        return images

    def update(self, real_logits: Tensor) -> None:
        for augmentation in self.augmentations:
            augmentation.update(real_logits)  # type: ignore[operator]


def register(name: str) -> Callable[[_Class], _Class]:
    """Registers a class of augmentations under `name`."""

    def add(augmentation: _Class) -> _Class:
        _AUGMENTATIONS[name] = augmentation
        return augmentation

    return add


def get_augmentation(name: str, **options: Any) -> Augmentation:
    """The augmentation called `name`; options go to its constructor.

    Raises:
        ValueError: there is none of that name (suggestions are given), or a bad value.
        TypeError: it has no such option.
    """
    if name not in _AUGMENTATIONS:
        raise unknown("augmentation", name, list_augmentations())
    return _AUGMENTATIONS[name](**options)


def list_augmentations() -> list[str]:
    """Sorted names that `get_augmentation` knows."""
    return sorted(_AUGMENTATIONS)


def checked(images: Tensor) -> Tensor:
    """`images` in at least float32, or an error if they are no batch of images."""
    if not images.is_floating_point():
        raise TypeError(f"images must be floating point, got {images.dtype}")
    if images.dim() != 4 or images.numel() == 0:
        raise ValueError(
            f"images must have shape [N, C, H, W] and not be empty, got {list(images.shape)}"
        )
    return images.float() if images.dtype in (torch.float16, torch.bfloat16) else images
