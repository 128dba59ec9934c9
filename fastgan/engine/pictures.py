"""Pictures of what a generator has learnt: tensors of images for `save_grid`, and a GIF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fastgan.checks import check_int
from fastgan.engine.grid import save_grid, screen_scale
from fastgan.engine.sampling import draw_noise, fitting_labels, images_of, sample_images
from fastgan.engine.train_state import TrainState
from fastgan.system import whole_file


def by_class(generator: nn.Module, columns: int = 8, *, seed: int = 0) -> tuple[Tensor, int]:
    """A row for each class, and the columns. The same noise is in each row.

    Raises ValueError for a generator without classes, and fewer than one column.
    """
    classes = int(getattr(generator, "num_classes", 0))
    if not classes:
        raise ValueError(f"{type(generator).__name__} draws no classes")
    check_int("columns", columns, 1)
    noise = draw_noise(generator, columns, seed).repeat(classes, 1)
    labels = torch.arange(classes).repeat_interleave(columns)
    return images_of(generator, noise, labels), columns


def slerp(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """Spherical interpolation of [N, D] and [N, D] at shares [S] in [0, 1]: [N, S, D].

    Directions are turned at a constant rate and lengths are interpolated linearly, so that points
    between two normal samples are as long as normal samples are (White 2016, arXiv:1609.04468).
    Rows that are parallel, or zero, are interpolated linearly.
    """
    lengths = [torch.linalg.vector_norm(x, dim=-1, keepdim=True) for x in (start, end)]
    units = [x / length.clamp_min(1e-12) for x, length in zip((start, end), lengths, strict=True)]
    cosine = (units[0] * units[1]).sum(-1, keepdim=True).clamp(-1, 1)
    angle = cosine.acos()
    t = share.view(1, -1, 1)
    turn = angle[:, None] * torch.cat([1 - t, t], 2)
    sine = angle.sin()[:, None]
    weights = turn.sin() / sine.clamp_min(1e-12)
    direction = weights[..., :1] * units[0][:, None] + weights[..., 1:] * units[1][:, None]
    length = lengths[0][:, None] * (1 - t) + lengths[1][:, None] * t
    straight = start[:, None] * (1 - t) + end[:, None] * t
    turns = (sine > 1e-4) & (torch.minimum(*lengths)[:, None] > 0)
    return torch.where(turns, direction * length, straight)


def interpolation(
    generator: nn.Module, rows: int = 8, columns: int = 10, *, seed: int = 0
) -> tuple[Tensor, int]:
    """Rows of images on the way from one latent vector to another, and the columns.

    A generator with classes draws a class a row. ValueError for less than a row or two columns.
    """
    if rows < 1 or columns < 2:
        raise ValueError(f"there must be a row and two columns at least, got {rows} and {columns}")
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
    columns = 2 * max(1, round((len(images) / 2) ** 0.5))
    return torch.stack([images.float().cpu(), again], 1).flatten(0, 1), columns


def save_reconstructions(trainer: TrainState, path: Path) -> None:
    """Images of the data beside their reconstructions, where the model encodes; else nothing."""
    model = trainer.ema.average if trainer.ema else trainer.generator
    if not hasattr(model, "reconstruct"):
        return
    reals = trainer.dataset.some(trainer.config.sample_count).float() / 127.5 - 1
    was_training = model.training
    images, columns = reconstruction_pairs(model.eval(), reals)
    model.train(was_training)
    save_grid(images, path, columns, scale=screen_scale(images))


def nearest_real(
    generator: nn.Module, reals: Tensor, count: int = 8, neighbours: int = 4, *, seed: int = 0
) -> tuple[Tensor, int]:
    """Samples, each followed by the real images nearest to it, and the columns: has it memorised?

    Args:
        reals: uint8 [N, C, H, W], of the generator's size and channels. Distances are of pixels.

    ValueError for images of another shape, or fewer than `neighbours`.
    """
    samples = sample_images(generator, count, seed=seed)
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
    """The sample grids of a run, which are from noise that stays the same, as a GIF.

    Raises:
        FileNotFoundError: the folder has no sample grids.
        ValueError: grids of different sizes.
    """
    files = sorted((run / "samples").glob("step-*.png"))
    if not files:
        raise FileNotFoundError(f"{run} has no sample grids: it is no run's folder")
    frames = [_frame(file) for file in files]
    if len({frame.size for frame in frames}) > 1:
        raise ValueError(f"the sample grids of {run} have different sizes")
    # The last picture stays a little longer.
    times = [round(1000 * seconds)] * (len(frames) - 1) + [round(4000 * seconds)]
    with whole_file(out) as file:
        frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0)
    return out


def _frame(file: Path) -> Image.Image:
    """A picture, grey if it is: a GIF has 256 colours, which are all of the greys."""
    with Image.open(file) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    grey = (pixels == pixels[..., :1]).all()
    return Image.fromarray(pixels[..., 0] if grey else pixels)
