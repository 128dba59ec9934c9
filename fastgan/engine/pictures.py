"""Pictures of what a generator has learnt: tensors of images for `save_grid`, and films."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from fastgan.checks import check_int
from fastgan.data import normalised
from fastgan.engine.cycling import CycleStep
from fastgan.engine.film import check_film, save_film
from fastgan.engine.grid import as_pictures, picture_of, screen_scale
from fastgan.engine.inversion import Inversion, invert
from fastgan.engine.latents import closed_walk, draw_noise, slerp
from fastgan.engine.sampling import fitting_labels, images_of, sample_images
from fastgan.engine.styling import StyleStep
from fastgan.engine.train_state import TrainState
from fastgan.engine.translating import TranslationStep
from fastgan.nn.modes import modes_kept


def by_class(generator: nn.Module, columns: int = 8, *, seed: int = 0) -> tuple[Tensor, int]:
    """A row for each class, and the columns. The same noise is in each row.

    Raises ValueError for a generator without classes, and fewer than one column.
    """
    classes = int(getattr(generator, "num_classes", 0))
    if not classes:
        raise ValueError(
            f"classes: {type(generator).__name__} draws none (the generators of cdcgan, acgan and "
            "projection do)"
        )
    check_int("columns", columns, 1)
    noise = draw_noise(generator, columns, seed).repeat(classes, 1)
    labels = torch.arange(classes).repeat_interleave(columns)
    return images_of(generator, noise, labels), columns


def interpolation(
    generator: nn.Module, rows: int = 8, columns: int = 10, *, seed: int = 0
) -> tuple[Tensor, int]:
    """Rows of images on the way from one latent vector to another, and the columns.

    A generator with classes draws a class a row. ValueError for less than a row or two columns.
    """
    if rows < 1 or columns < 2:
        raise ValueError(f"rows must be at least 1 and columns 2, got {rows} and {columns}")
    start, end = draw_noise(generator, 2 * rows, seed).chunk(2)
    noise = slerp(start, end, torch.linspace(0, 1, columns)).flatten(0, 1)
    labels = fitting_labels(generator, rows, None)
    labels = labels if labels is None else labels.repeat_interleave(columns)
    return images_of(generator, noise, labels), columns


@torch.no_grad()
def reconstruction_pairs(generator: nn.Module, images: Tensor) -> tuple[Tensor, int]:
    """Images [N, C, H, W] in [-1, 1], each followed by its reconstruction, and the columns.

    ValueError for a generator without an encoder.
    """
    if not hasattr(generator, "reconstruct"):
        raise ValueError(f"{type(generator).__name__} has no encoder to reconstruct images with")
    device = next(generator.parameters()).device
    reconstruct: Any = generator.reconstruct
    again = torch.cat([reconstruct(part.to(device)).float().cpu() for part in images.split(256)])
    return _beside(images, again)


def _beside(images: Tensor, others: Tensor) -> tuple[Tensor, int]:
    """Each image followed by its other, and the columns of a grid about square."""
    columns = 2 * max(1, round((len(images) / 2) ** 0.5))
    return torch.stack([images.float().cpu(), others], 1).flatten(0, 1), columns


def triples(conditions: Tensor, made: Tensor, images: Tensor) -> tuple[Tensor, int]:
    """Conditions [N, ...], as far as they can be shown, what was made of them, and the images
    [N, C, H, W]: side by side, and the columns.
    """
    columns = max(1, round((len(images) / 3) ** 0.5))
    rows = [made, images]
    if conditions.dim() == 4:
        shown_channels = conditions[:, : images.shape[1] if conditions.shape[1] > 1 else 1]
        sized = F.interpolate(shown_channels.float(), images.shape[2:], mode="nearest")
        rows = [sized.expand_as(images), *rows]
    return torch.stack([r.float().cpu() for r in rows], 1).flatten(0, 1), columns * len(rows)


def cycles(images: Tensor, made: Tensor, again: Tensor) -> tuple[Tensor, int]:
    """Images of two domains, what was made of them, and what of that, each [N, 2·C, H, W] as of a
    `CycleGenerator`: side by side, the first domain's before the second's; and the columns.
    """
    (a, b), (to_a, to_b), (round_a, round_b) = (x.chunk(2, 1) for x in (images, made, again))
    rows = [torch.cat(pair) for pair in ((a, b), (to_b, to_a), (round_a, round_b))]
    return triples(*rows)


def reconstructions(trainer: TrainState) -> tuple[Tensor, int] | None:
    """Images of the data beside their reconstructions, where the model encodes, or beside what was
    made of their conditions (and a style's picture), and the columns; else None.
    """
    step = trainer.step_function
    if isinstance(step, TranslationStep):
        conditions = trainer.fixed_labels
        assert conditions is not None
        made = trainer.sample(trainer.fixed_noise, conditions)
        if isinstance(step, StyleStep):
            return triples(conditions, made, step.windows(len(made), made.shape[2:]))
        if isinstance(step, CycleStep):
            return cycles(conditions, made, trainer.sample(trainer.fixed_noise, made))
        shown = (as_pictures(trainer.generator, x) for x in (made, trainer.fixed_images[0]))
        return triples(conditions, *shown)
    model = trainer.ema.average if trainer.ema else trainer.generator
    if not hasattr(model, "reconstruct"):
        return None
    data = trainer.dataset
    reals = normalised(data.some(trainer.config.sample_count), data.value_range)
    with modes_kept(model):
        return reconstruction_pairs(model.eval(), reals)


def projections(
    generator: nn.Module,
    images: Tensor,
    *,
    labels: Tensor | None = None,
    steps: int = 300,
    seed: int = 0,
) -> tuple[Tensor, int, Inversion]:
    """Images [N, C, H, W] in [-1, 1], each followed by the nearest that the generator draws, the
    columns, and what ``invert`` found.
    """
    found = invert(generator, images, labels=labels, steps=steps, seed=seed)
    return *_beside(images, found.images), found


def nearest_real(
    generator: nn.Module, reals: Tensor, count: int = 8, neighbours: int = 4, *, seed: int = 0
) -> tuple[Tensor, int]:
    """Samples, each followed by the real images nearest to it, and the columns: has it memorised?

    Args:
        reals: uint8 [N, C, H, W], of the generator's size and channels. Distances are of pixels.

    ValueError for images of another shape, or fewer than `neighbours`.
    """
    samples = sample_images(generator, count, seed=seed)
    if reals.dtype != torch.uint8:
        raise ValueError(f"reals must be images of uint8, got {reals.dtype}")
    if reals.shape[1:] != samples.shape[1:] or len(reals) < neighbours:
        raise ValueError(
            f"reals must be at least {neighbours} images of {list(samples.shape[1:])}, got "
            f"{list(reals.shape)}"
        )
    found = nearest(samples, reals, neighbours)
    rows = torch.cat([samples[:, None], reals[found].float() / 127.5 - 1], 1)
    return rows.flatten(0, 1), neighbours + 1


def nearest(samples: Tensor, reals: Tensor, neighbours: int, rows: int = 4096) -> Tensor:
    """Indices [N, k] of the `reals`, uint8, nearest to `samples` in [-1, 1], nearest first."""
    flat = samples.flatten(1)
    distances, indices = [], []
    for start, part in zip(range(0, len(reals), rows), reals.split(rows), strict=True):
        distance = torch.cdist(flat, part.flatten(1).float() / 127.5 - 1)
        best = distance.topk(min(neighbours, len(part)), largest=False)
        distances.append(best.values)
        indices.append(best.indices + start)
    order = torch.cat(distances, 1).topk(neighbours, largest=False).indices
    return torch.cat(indices, 1).gather(1, order)


def evolution(run: Path, out: Path, *, seconds: float = 0.4) -> Path:
    """The sample grids of a run, which are from noise that stays the same, as a film.

    ``out`` is a .gif, .webp, .png or .mp4; a picture stays for so many ``seconds``.

    Raises:
        FileNotFoundError: the folder has no sample grids.
        ValueError: grids of different sizes.
    """
    files = sorted((run / "samples").glob("step-*.png"))
    if not files:
        raise FileNotFoundError(f"{run} has no sample grids: it is no run's folder")
    frames = [_frame(file) for file in files]
    if len({frame.shape for frame in frames}) > 1:
        raise ValueError(f"the sample grids of {run} have different sizes")
    # The last picture stays a little longer.
    return save_film(frames, out, [seconds] * (len(frames) - 1) + [4 * seconds])


def _frame(file: Path) -> NDArray[np.uint8]:
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"))


def walk(
    generator: nn.Module,
    out: Path,
    *,
    rows: int = 4,
    columns: int = 4,
    points: int = 6,
    frames: int = 24,
    seconds: float = 1 / 12,
    seed: int = 0,
    truncation: float | None = None,
) -> Path:
    """A grid of images that change as their latent vectors go round a closed way, as a film.

    Args:
        out: a .gif, .webp, .png or .mp4.
        points: random latent vectors that each image passes.
        frames: from one to the next, by spherical interpolation.
        seconds: that a frame stays.
        truncation: of the vectors; see ``latents.truncated``.

    Raises:
        ValueError: a number out of range, or a picture too large.
        ModuleNotFoundError: MP4 without the packages of fastgan[video].
    """
    for name, value in (("rows", rows), ("columns", columns), ("frames", frames)):
        check_int(name, value, 1)
    check_int("points", points, 2)
    if not 0.001 <= seconds <= 60:
        raise ValueError(f"seconds must lie in 0.001..60, got {seconds!r}")
    check_film(out)
    count = rows * columns
    noise = draw_noise(generator, points * count, seed, truncation)
    labels = fitting_labels(generator, count, None)
    made = []
    for vectors in closed_walk(noise.view(points, count, -1), frames):
        images = images_of(generator, vectors, labels)
        made.append(picture_of(images, columns, screen_scale(images)))
    return save_film(made, out, seconds)
