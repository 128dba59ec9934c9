"""Samples that the discriminator lets pass.

Discriminator rejection sampling (Azadi et al. 2019, arXiv:1810.06758): where the discriminator's
sigmoid is the probability that an image is real, exp(logit) is the density of real images over that
of generated ones, and accepting in proportion to it draws from the real density. A quantile takes
the place of the paper's γ, which makes it practical: it says how picky to be.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastgan.checks import check_int, check_share
from fastgan.engine.latents import draw_noise
from fastgan.engine.sampling import fitting_labels, images_of, in_batches

WARM_UP = 1024
"""Samples that the highest logit and γ are taken from."""
_EPS = 1e-8


class Accepted(NamedTuple):
    """Images float [N, C, H, W] in [-1, 1] on the CPU, and how many were drawn for them."""

    images: Tensor
    drawn: int


def rejection_sample(
    generator: nn.Module,
    discriminator: nn.Module,
    count: int,
    *,
    quantile: float = 0.8,
    seed: int = 0,
    labels: Tensor | None = None,
    truncation: float | None = None,
    batch_size: int = 256,
) -> Accepted:
    """``count`` samples of which each was accepted by the discriminator. Both are to be in eval.

    The first images are the same whatever ``count`` is, as of ``sample_images``.

    Args:
        discriminator: gives logits, alone or before class outputs; of a conditional one,
            ``discriminator(images, labels)`` is asked for.
        quantile: in [0, 1). So many of the samples are accepted with a probability below one half;
            towards 0 nearly all pass, towards 1 few do, and diversity falls.
        labels: int64 ``[count]``; see ``sample_images``.
        truncation: of the noise; see ``truncated``.

    Raises:
        ValueError: an argument out of range, or labels that do not fit.
        ValueError: nearly nothing is accepted, as when logits are not finite.
    """
    for name, value in (("count", count), ("batch_size", batch_size)):
        check_int(name, value, 1)
    check_share("rejection", quantile)
    labels = fitting_labels(generator, count, labels)

    def draw(attempt: int, rows: Tensor, classes: Tensor | None) -> tuple[Tensor, Tensor]:
        noise = draw_noise(generator, int(rows[-1]) + 1, _seed(seed, attempt), truncation)[rows]
        images = images_of(generator, noise, classes, batch_size)
        return images, _logits(discriminator, images, classes, batch_size)

    kinds = None if labels is None else labels.unique()
    classes = None if kinds is None else kinds[torch.arange(WARM_UP) % len(kinds)]
    _, logits = draw(0, torch.arange(WARM_UP), classes)
    if not logits.isfinite().all():
        raise ValueError(
            "rejection: the discriminator's logits of generated images are not finite: the run has "
            "diverged there; take an earlier checkpoint"
        )
    highest = logits.max()
    gamma = _score(logits, highest).quantile(quantile)

    kept: dict[int, Tensor] = {}
    missing, drawn = torch.arange(count), 0
    # A row is accepted with a probability of about (1 - quantile) / 2 or more, each time.
    for attempt in range(1, math.ceil(60 / (1 - quantile)) + 1):
        images, logits = draw(attempt, missing, None if labels is None else labels[missing])
        drawn += len(missing)
        chance = torch.sigmoid(_score(logits, highest) - gamma)
        passes = _uniform(missing, _seed(seed, -attempt)) < chance
        kept |= dict(zip(missing[passes].tolist(), images[passes], strict=True))
        missing = missing[~passes]
        if not len(missing):
            return Accepted(torch.stack([kept[row] for row in range(count)]), drawn)
    raise ValueError(
        f"rejection {quantile}: {len(kept)} of {count} images were accepted out of {drawn}: a "
        "lower one accepts more"
    )


def _score(logits: Tensor, highest: Tensor) -> Tensor:
    """The paper's F: the logit of the acceptance probability exp(logit - highest)."""
    below = (logits - highest).clamp(max=0)
    return below - torch.log(-torch.expm1(below - _EPS))


@torch.no_grad()
def _logits(
    discriminator: nn.Module, images: Tensor, labels: Tensor | None, batch_size: int
) -> Tensor:
    """Float64 [N] on the CPU."""
    found = []
    for out in in_batches(discriminator, images, labels, batch_size):
        logits = out if isinstance(out, Tensor) else out[0]
        # A patch discriminator's logits are averaged over the image.
        found.append(logits.double().cpu().view(len(logits), -1).mean(1))
    return torch.cat(found)


def _seed(seed: int, attempt: int) -> int:
    """Another stream for each attempt, and that of ``draw_noise`` for the first."""
    return (seed + attempt * 0x9E3779B97F4A7C15) % 2**63


def _uniform(rows: Tensor, seed: int) -> Tensor:
    """A value in [0, 1) for each of the sorted rows, the same whatever the others are."""
    rng = torch.Generator().manual_seed(seed)
    values = [torch.rand((), dtype=torch.float64, generator=rng) for _ in range(int(rows[-1]) + 1)]
    return torch.stack(values)[rows]
