"""Feature networks: what distances between sets of images are measured in.

A number is only comparable with numbers of the same network, so a network carries its name and a
digest of its weights, and one that is asked for is never replaced by another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgan.checks import check_choice
from fastgan.nn.digest import weights_digest


class Features(NamedTuple):
    """features: float [N, D]; logits: float [N, classes], or None of a network without classes."""

    features: Tensor
    logits: Tensor | None


@dataclass(frozen=True, eq=False)
class FeatureNetwork:
    """A network and what it has to be given.

    Args:
        name: to be printed with every number.
        module: images, float32 [N, channels, image_size, image_size] in [-1, 1], to features
            [N, D], to (features, logits), or to Features. It is run in eval mode.
        channels, image_size: of its input. Grey images are repeated for three channels; colours are
            never thrown away. Other sizes are resized, antialiased; 0 takes any size.
        classes: whether it gives logits of classes.
        own_resize: what the module itself does with a size that it was not made for, for print.
        interpolation: of resizing, bilinear or bicubic.
        facts: what else its numbers depend on, such as a mean that is taken off: part of every
            score's setting, so that numbers of another are not compared.
        digest: by default `weights_digest` of the module.
    """

    name: str
    module: nn.Module
    channels: int
    image_size: int
    classes: bool = True
    own_resize: str = "none"
    interpolation: str = "bilinear"
    facts: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""

    def __post_init__(self) -> None:
        check_choice("interpolation", self.interpolation, ("bilinear", "bicubic"))
        self.module.eval().requires_grad_(False)
        object.__setattr__(self, "digest", self.digest or weights_digest(self.module))

    @property
    def resize(self) -> str:
        """How images are brought to its size, for print."""
        if not self.image_size:
            return self.own_resize
        return f"{self.image_size}x{self.image_size} {self.interpolation} antialiased"

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """Features of images [N, C, H, W], float in [-1, 1].

        Raises ValueError for another number of channels, images that are not finite, or a network
        that does not give [N, D].
        """
        x = self._fitted(images)
        out: Any = self.module(x)
        features, logits = (out, None) if isinstance(out, Tensor) else out
        if features.dim() != 2 or len(features) != len(images):
            raise ValueError(
                f"the feature network {self.name} must give [{len(images)}, D], got "
                f"{list(features.shape)}"
            )
        return Features(features, logits)

    def _fitted(self, images: Tensor) -> Tensor:
        if images.dim() != 4:
            raise ValueError(
                f"the feature network {self.name} measures images [N, C, H, W], got "
                f"{list(images.shape)}: waveforms and volumes have no such metrics here"
            )
        check_finite(images)
        if images.shape[1] != self.channels:
            if images.shape[1] != 1:
                raise ValueError(
                    f"the feature network {self.name} takes {self.channels} channel, the images "
                    f"have {images.shape[1]}: choose a network for colour (efficientnet-lite0 or "
                    "inception) by features, in training eval_features, or convert the images"
                )
            images = images.expand(-1, self.channels, -1, -1)
        images = images.float().clamp(-1, 1)
        size = (self.image_size, self.image_size)
        if not self.image_size or images.shape[2:] == size:
            return images
        # Bicubic goes beyond the values that it is given.
        return F.interpolate(images, size, mode=self.interpolation, antialias=True).clamp(-1, 1)


class NonFiniteImagesError(ValueError):
    """Images of a generator that has diverged."""


def check_finite(images: Tensor) -> None:
    """NonFiniteImagesError if an image [N, C, H, W] has a pixel that is not finite."""
    bad = ~images.isfinite().flatten(1).all(1)
    if bad.any():
        raise NonFiniteImagesError(
            f"{int(bad.sum())} of {len(images)} images have pixels that are NaN or infinite: the "
            "run has diverged there; evaluate an earlier checkpoint"
        )
