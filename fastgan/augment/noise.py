"""Instance noise: white noise on all that the discriminator sees, annealed away."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.augment._base import Augmentation, checked, register
from fastgan.checks import check_int


def instance_noise(images: Tensor, sigma: Tensor | float) -> Tensor:
    """`images` + sigma · N(0, 1), in their dtype. A sigma on their device is not read by the host.

    Source: Arjovsky and Bottou 2017, "Towards Principled Methods for Training GANs"
    (arXiv:1701.04862), section 3; Sønderby et al. 2017, "Amortised MAP Inference for Image
    Super-resolution" (arXiv:1610.04490), section 3.
    """
    wide = checked(images)
    return (wide + sigma * torch.randn_like(wide)).to(images.dtype)


@register("instance_noise")
class InstanceNoise(Augmentation):
    """Noise whose standard deviation falls linearly from `sigma` to `final` over `steps` updates.

    Args:
        sigma: at first, in units of the images (whose range is [-1, 1]).
        steps: discriminator updates until `final` is reached, and kept.
        final: at last.

    Buffers: `updates` [], discriminator updates so far. ValueError for a negative number, or for
    steps below 1.
    """

    updates: Tensor

    def __init__(self, sigma: float = 0.1, steps: int = 10_000, final: float = 0.0) -> None:
        super().__init__()
        for name, value in (("sigma", sigma), ("final", final)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}")
        self.initial, self.final = float(sigma), float(final)
        self.steps = check_int("steps", steps, 1)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @property
    def sigma(self) -> Tensor:
        """The standard deviation now, on the device."""
        done = (self.updates / self.steps).clamp(max=1)
        return self.initial + done * (self.final - self.initial)

    def forward(self, images: Tensor) -> Tensor:
        return instance_noise(images, self.sigma)

    @torch.no_grad()
    def update(self, real_logits: Tensor) -> None:
        self.updates.add_(1)

    def extra_repr(self) -> str:
        return f"sigma={self.initial}, steps={self.steps}, final={self.final}"
