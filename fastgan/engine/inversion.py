"""The latent vectors of given images, by optimisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastgan.checks import check_int
from fastgan.engine.latents import draw_noise
from fastgan.engine.sampling import fitting_labels, images_of
from fastgan.system import tell

Distance = Callable[[Tensor, Tensor], Tensor]


class Inversion(NamedTuple):
    """All on the CPU: latents [N, latent_dim], their images [N, C, H, W], and how far these are
    from the given ones, [N]."""

    latents: Tensor
    images: Tensor
    distances: Tensor


def squared_error(images: Tensor, targets: Tensor) -> Tensor:
    """Mean squared difference of each image, [N]."""
    return (images.float() - targets).square().flatten(1).mean(1)


def invert(
    generator: nn.Module,
    images: Tensor,
    *,
    labels: Tensor | None = None,
    steps: int = 300,
    learning_rate: float = 0.05,
    candidates: int = 256,
    prior: float = 0.01,
    distance: Distance = squared_error,
    seed: int = 0,
    batch_size: int = 64,
) -> Inversion:
    """The latent vectors whose images are nearest to ``images``; the generator stays as it is.

    Each begins at the nearest of some random samples and is moved by Adam, at a rate that falls to
    0 (Zhu et al. 2016, arXiv:1609.03552; Creswell, Bharath 2018, arXiv:1802.05701). The nearest
    vector of the way is kept.

    Args:
        images: float ``[N, C, H, W]`` in [-1, 1], of the generator's shape.
        labels: int64 ``[N]``, of a generator that takes them; by default all classes in turn.
        candidates: random samples to begin with the nearest of.
        prior: weight of the penalty (mean of z² - 1)², which keeps vectors as long as normal ones.
        distance: differentiable, of two batches of images to [N].

    Raises:
        ValueError: images of another shape, labels that do not fit, or an argument out of range.
    """
    for name, value in (("candidates", candidates), ("batch_size", batch_size)):
        check_int(name, value, 1)
    check_int("steps", steps, 0)
    for name, number, least in (("learning_rate", learning_rate, 0), ("prior", prior, 0)):
        if not (math.isfinite(number) and number >= least):
            raise ValueError(f"{name} must be a number of at least {least}, got {number!r}")
    if images.dim() != 4 or not len(images) or not images.is_floating_point():
        raise ValueError(
            f"images must be float [N, C, H, W] with N >= 1, got {images.dtype} of "
            f"{list(images.shape)}"
        )
    labels = fitting_labels(generator, len(images), labels)
    noise = draw_noise(generator, candidates, seed)
    like = images_of(generator, noise[:1], None if labels is None else labels[:1])
    if like.shape[1:] != images.shape[1:]:
        raise ValueError(
            f"images must have the generator's shape {list(like.shape[1:])}, got "
            f"{list(images.shape[1:])}"
        )
    device = next(generator.parameters()).device
    found = []
    with _frozen(generator):
        rows = range(0, len(images), batch_size)
        for part in (slice(start, start + batch_size) for start in rows):
            classes = None if labels is None else labels[part].to(device)
            targets = images[part].to(device).float()
            start = _nearest(generator, targets, classes, noise, distance, batch_size)

            def drawn(z: Tensor, classes: Tensor | None = classes) -> Tensor:
                made: Tensor = generator(z) if classes is None else generator(z, classes)
                return made

            found.append(_descend(drawn, targets, start, steps, learning_rate, prior, distance))
    return Inversion(*(torch.cat(parts) for parts in zip(*found, strict=True)))


@torch.no_grad()
def _nearest(
    generator: nn.Module,
    targets: Tensor,
    labels: Tensor | None,
    noise: Tensor,
    distance: Distance,
    batch_size: int,
) -> Tensor:
    """The row of ``noise`` whose image is nearest to each target, of the target's class."""
    best = torch.empty(len(targets), dtype=torch.int64)
    for kind in [None] if labels is None else labels.unique():
        of_kind = torch.arange(len(targets)) if kind is None else (labels == kind).nonzero()[:, 0]
        classes = None if kind is None else kind.cpu().expand(len(noise))
        samples = images_of(generator, noise, classes, batch_size)
        for row in of_kind.tolist():
            parts = samples.split(batch_size)
            target = targets[row : row + 1]
            far = [distance(p.to(target.device), target.expand(len(p), -1, -1, -1)) for p in parts]
            best[row] = torch.cat(far).argmin().cpu()
    return noise[best].to(targets.device)


def _descend(
    draw: Callable[[Tensor], Tensor],
    targets: Tensor,
    start: Tensor,
    steps: int,
    learning_rate: float,
    prior: float,
    distance: Distance,
) -> tuple[Tensor, Tensor, Tensor]:
    latents = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([latents], lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    nearest = torch.full((len(start),), math.inf, device=start.device)
    best = start.clone()
    for step in range(steps + 1):
        tell("searching", step, steps)
        with torch.enable_grad():
            far = distance(draw(latents), targets)
            penalty = (latents.square().mean(1) - 1).square()
            loss = (far + prior * penalty).sum()
        nearer = far.detach() < nearest
        nearest = torch.where(nearer, far.detach(), nearest)
        best = torch.where(nearer[:, None], latents.detach(), best)
        if step < steps:
            (latents.grad,) = torch.autograd.grad(loss, latents)
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        images = draw(best)
    return best.cpu(), images.float().cpu(), nearest.cpu()


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """No gradients of parameters within, so that none are computed."""
    learning = [p for p in module.parameters() if p.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_()
