"""Adversarial losses: pairs of functions that take logits and return a scalar.

Logits may have any shape (one an image, or a patch map); a loss is the mean over all of them, in
float32 for half-precision logits and in the logits' own precision otherwise. All are
differentiable to any order.

| name           | discriminator                              | generator         |
|----------------|--------------------------------------------|-------------------|
| non_saturating | E softplus(-r) + E softplus(f)             | E softplus(-f)    |
| lsgan          | ½ E (r - 1)² + ½ E f²                      | ½ E (f - 1)²      |
| hinge          | E max(0, 1 - r) + E max(0, 1 + f)          | -E f              |
| wasserstein    | E f - E r                                  | -E f              |

with r the logits of real and f those of generated images. Sources: Goodfellow et al. 2014
(non-saturating; softplus is binary cross-entropy on logits), Mao et al. 2017 (least squares, labels
0 and 1), Lim and Ye 2017 (hinge), Arjovsky et al. 2017 (Wasserstein; the critic needs a Lipschitz
constraint besides).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class GANLoss(NamedTuple):
    """A pair of losses: `discriminator(real_logits, fake_logits)` and `generator(fake_logits)`."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


def _logits(name: str, logits: Tensor) -> Tensor:
    if not logits.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {logits.dtype}")
    if logits.numel() == 0:
        raise ValueError(f"{name} must not be empty, got shape {list(logits.shape)}")
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _pair(
    on_real: Callable[[Tensor], Tensor],
    on_fake: Callable[[Tensor], Tensor],
    on_generated: Callable[[Tensor], Tensor],
) -> GANLoss:
    """A GANLoss whose parts are means of elementwise functions of the logits."""

    def discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        real, fake = _logits("real_logits", real_logits), _logits("fake_logits", fake_logits)
        return on_real(real).mean() + on_fake(fake).mean()

    def generator(fake_logits: Tensor) -> Tensor:
        return on_generated(_logits("fake_logits", fake_logits)).mean()

    return GANLoss(discriminator, generator)


non_saturating = _pair(
    # logsigmoid(x) = -softplus(-x), without softplus' switch to the identity above 20.
    on_real=lambda r: -F.logsigmoid(r),
    on_fake=lambda f: -F.logsigmoid(-f),
    on_generated=lambda f: -F.logsigmoid(f),
)
lsgan = _pair(
    on_real=lambda r: 0.5 * (r - 1).square(),
    on_fake=lambda f: 0.5 * f.square(),
    on_generated=lambda f: 0.5 * (f - 1).square(),
)
hinge = _pair(
    on_real=lambda r: F.relu(1 - r),
    on_fake=lambda f: F.relu(1 + f),
    on_generated=Tensor.neg,
)
wasserstein = _pair(on_real=Tensor.neg, on_fake=lambda f: f, on_generated=Tensor.neg)

LOSSES = {
    "hinge": hinge,
    "lsgan": lsgan,
    "non_saturating": non_saturating,
    "wasserstein": wasserstein,
}


def get_loss(name: str) -> GANLoss:
    """The pair of losses called `name`; ValueError with suggestions if there is none."""
    if name not in LOSSES:
        close = difflib.get_close_matches(name, LOSSES, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"losses: {', '.join(LOSSES)}"
        raise ValueError(f"unknown loss {name!r}; {hint}")
    return LOSSES[name]
