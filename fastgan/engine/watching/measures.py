"""What is measured of a run's networks and samples; nothing of the run's state moves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from fastgan.data import Source, normalised
from fastgan.engine.gan import GAN, Batch
from fastgan.engine.step import with_further
from fastgan.engine.translating import TranslationStep
from fastgan.engine.update import frozen
from fastgan.nn.modes import modes_kept

# Of a matrix's first estimate, and of those that start from the one before.
_FIRST, _AGAIN = 15, 3
# Real images that samples are compared with: of a larger set so many, evenly spaced.
_MAX_REALS, _MAX_BYTES = 5000, 2**28
# The longer side of images as they are compared.
_SIDE = 16
# A copy is nearer to its original than this share of what that is from its own nearest other.
_COPY = 1 / 3


@contextmanager
def undisturbed(modules: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Within, networks run as in training; their buffers, modes and torch's random numbers are
    afterwards what they were.
    """
    buffers = [
        (layer._buffers, name, value, value.clone())
        for module in modules
        for layer in module.modules()
        for name, value in layer._buffers.items()
        if value is not None
    ]
    own = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    try:
        with modes_kept(*modules), own:
            torch.manual_seed(0)
            yield
    finally:
        with torch.no_grad():
            for owner, name, value, before in buffers:
                # In the memory that captured steps know.
                owner[name] = value.copy_(before)


class Play(NamedTuple):
    """Of one batch, as the next step would see it.

    Attributes:
        real, fake: the discriminator's logits, None without one.
        grad_d, grad_g: norms of the gradients of the losses, without penalties, scalars; None of a
            network without weights to train.
    """

    real: Tensor | None
    fake: Tensor | None
    grad_d: Tensor | None
    grad_g: Tensor | None


def play(gan: GAN, batch: Batch, step: nn.Module | None) -> Play:
    """Logits and gradients of a batch, in float32. To be called within `undisturbed`.

    Args:
        batch: with the conditions that the networks are given.
        step: a `TranslationStep`, whose losses the generator then has; None for a plain GAN's.
    """
    translating = step if isinstance(step, TranslationStep) else None
    adversarial = translating is None or translating.adversarial_weight > 0
    real = fake = grad_d = None
    with torch.enable_grad():
        made = gan.generate(batch)
        if adversarial:
            reals, fakes = gan.outputs_of_both(batch, made.detach())
            real, fake = reals.logits, fakes.logits
            loss, _ = gan.loss_and_metrics(real, fake)
            loss = with_further(gan, loss, {}, reals, fakes)
            grad_d = _norm_of_gradient(loss, gan.update_d.parameters)
        with frozen(gan.discriminator):
            if translating is None:
                output = gan.outputs(made, batch.labels)
                again = partial(gan.discriminate, batch.images, batch.labels)
                total = gan.generator_loss(output.logits, again)
                total = with_further(gan, total, {}, output)
            else:
                losses = translating.losses(gan, made, batch).values()
                total = torch.stack([weight * value for weight, value in losses]).sum()
            grad_g = _norm_of_gradient(total, gan.update_g.parameters)
    return Play(real, fake, grad_d, grad_g)


def _norm_of_gradient(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor | None:
    if not parameters:
        return None
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    there = [gradient for gradient in found if gradient is not None]
    return torch.nn.utils.get_total_norm(there) if there else loss.new_zeros(())


class LargestSingular:
    """Largest singular values of a network's weights, each as a matrix [outputs, all else].

    Estimated from below by power iterations, each of which goes on from the one before. The weights
    are those that layers compute with: of a layer under spectral norm the divided one.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._vectors: dict[str, Tensor] = {}

    @torch.no_grad()
    def largest(self) -> Tensor | None:
        """The largest of all layers, a scalar; None for a network without such weights. To be
        called within `undisturbed`.
        """
        self._network.eval()  # where spectral norm does not iterate
        found = [
            self._estimate(name, matrix.float())
            for name, layer in self._network.named_modules()
            if (matrix := _matrix_of(layer)) is not None
        ]
        return torch.stack(found).max() if found else None

    def _estimate(self, name: str, matrix: Tensor) -> Tensor:
        u = self._vectors.get(name)
        iterations = _FIRST if u is None else _AGAIN
        if u is None:
            rng = torch.Generator().manual_seed(0)
            u = torch.randn(len(matrix), generator=rng).to(matrix.device)
        for _ in range(iterations):
            product = matrix @ F.normalize(matrix.mT @ F.normalize(u, dim=0), dim=0)
            # A matrix of zeros leaves the vector, so that a later one is seen.
            u = torch.where(product.any(), product, u)
        self._vectors[name] = u
        return product.norm()


def _matrix_of(layer: nn.Module) -> Tensor | None:
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() < 2 or isinstance(layer, nn.Embedding):
        return None
    transposed = isinstance(layer, _ConvTransposeNd) or getattr(layer, "transposed", False)
    return (weight.transpose(0, 1) if transposed else weight).flatten(1)


class Likeness(NamedTuple):
    """Of samples, beside real images.

    Attributes:
        spread: the mean distance of two samples, over that of two real images.
        nearest: the median distance of a sample to the nearest real image, over that of a real
            image to the nearest other.
        copied: the share of samples that are nearer to a real image than a third of what that is
            from its own nearest other.
    """

    spread: float
    nearest: float
    copied: float


class Reals:
    """Real images to compare samples with: pixels, of sides of at most 16.

    Args:
        data: the training set; of a large one 5,000 images or 256 MiB, evenly spaced.
        flip: whether a mirrored image is of the set, too.
        count: real images that are taken for samples, for comparison.
    """

    def __init__(self, data: Source, flip: bool, count: int) -> None:
        item = data.some(1)
        most = min(_MAX_REALS, max(_MAX_BYTES // max(item.nbytes, 1), count))
        stored = data.some(most)
        self._flip = flip
        parts = [_small(normalised(part, data.value_range)) for part in stored.split(256)]
        self._images = torch.cat(parts)
        self.count = len(self._images)
        chosen = torch.linspace(0, self.count - 1, min(count, self.count)).round().long()
        queries = self._images[chosen]
        self._spread = _mean_distance(queries)
        # A real image's nearest is another one: each is held out of what it is compared with.
        distance, which = self._nearest(queries, chosen)
        self._apart = float(distance.median())
        self.copied = self._share_copied(distance, which)
        """The share of `Likeness.copied` that real images themselves have, such as those that were
        taken twice."""

    @property
    def usable(self) -> bool:
        """Whether there are images enough, and different ones."""
        return self.count > 2 and self._apart > 0 and self._spread > 0

    def likeness(self, samples: Tensor) -> Likeness:
        """Of samples [N, C, H, W] in [-1, 1], N > 1."""
        small = _small(samples.float().cpu())
        distance, which = self._nearest(small)
        return Likeness(
            _mean_distance(small) / self._spread,
            float(distance.median()) / self._apart,
            self._share_copied(distance, which),
        )

    def _nearest(self, images: Tensor, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The distance of each to the nearest real image but its `own`, and which that is."""
        found = []
        for seen in (images, images.flip(-1)) if self._flip else (images,):
            distance = _distances(seen, self._images)
            if own is not None:
                distance.scatter_(1, own[:, None], torch.inf)
            found.append(distance)
        return torch.stack(found).amin(0).min(1)

    def _share_copied(self, distance: Tensor, which: Tensor) -> float:
        apart, _ = self._nearest(self._images[which], which)
        return float((distance < _COPY * apart).float().mean())


def _small(images: Tensor) -> Tensor:
    shrink = max(max(images.shape[2:]) / _SIDE, 1)
    height, width = (max(round(side / shrink), 1) for side in images.shape[2:])
    return F.adaptive_avg_pool2d(images.cpu(), (height, width))


def _distances(images: Tensor, others: Tensor) -> Tensor:
    # Not by products of matrices, whose rounding is that of a copy.
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(images.flatten(1), others.flatten(1), compute_mode=exact)


def _mean_distance(images: Tensor) -> float:
    count = len(images)
    return float(_distances(images, images).sum()) / max(count * (count - 1), 1)
