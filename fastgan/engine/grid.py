"""Sample grids."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from fastgan.checks import check_int
from fastgan.system import whole_file

PADDING = 2
# 0.9 GB as RGB, and four times the largest picture that Pillow opens without a warning.
MAX_PIXELS = 300_000_000
_FORMATS = {"": "PNG", ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def check_picture(
    count: int, height: int, width: int, columns: int | None = None, scale: int = 1
) -> None:
    """Whether ``count`` images make a picture that can be made, before they are.

    Raises:
        ValueError: no image, or more than ``MAX_PIXELS``; the message has both sides.
    """
    check_int("count", count, 1)
    columns, rows = _cells(count, columns)
    across, down = (
        scale * (n * (side + PADDING) + PADDING) for n, side in ((columns, width), (rows, height))
    )
    if across * down > MAX_PIXELS:
        raise ValueError(
            f"{count} images of {width} x {height} in {columns} columns make a picture of "
            f"{across} x {down} pixels; there may be {MAX_PIXELS} in all"
        )


def _cells(count: int, columns: int | None) -> tuple[int, int]:
    columns = columns or math.isqrt(count - 1) + 1
    return columns, -(-count // columns)


def shown(images: Tensor) -> Tensor | None:
    """What a picture shows of ``images``: ``[N, 1 or 3, H, W]``.

    Of a volume ``[N, C, D, H, W]`` its middle slice, of three and more channels the first three, of
    two the first. None of waveforms ``[N, C, L]`` and whatever else is no image.
    """
    if images.dim() == 5:
        images = images[:, :, images.shape[2] // 2]
    if images.dim() != 4:
        return None
    return images[:, : 3 if images.shape[1] >= 3 else 1]


def as_pictures(generator: nn.Module, items: Tensor) -> Tensor:
    """What to show of a generator's ``items``: its ``pictures`` of them, where it makes some."""
    pictures = getattr(generator, "pictures", None)
    return items if pictures is None else pictures(items)


def make_grid(images: Tensor, columns: int | None = None, padding: int = PADDING) -> Tensor:
    """Tile ``images`` into one picture, row by row.

    Args:
        images: float ``[N, C, H, W]`` or ``[N, C, D, H, W]`` in [-1, 1]; see :func:`shown`.
        columns: images a row; by default the square's side.
        padding: black pixels around each image.

    Returns:
        uint8 ``[H', W', 3]`` on the CPU.

    Raises:
        ValueError: ``images`` has no image, or is no picture.
    """
    visible = shown(images)
    if visible is None or len(visible) == 0:
        raise ValueError(f"images must be [N, C, H, W] with N >= 1, got {tuple(images.shape)}")
    pixels = visible.detach().float().add(1).mul(127.5).round().clamp(0, 255).to("cpu", torch.uint8)
    pixels = pixels.expand(-1, 3, -1, -1)
    count, _, height, width = pixels.shape
    columns, rows = _cells(count, columns)
    cell_h, cell_w = height + padding, width + padding
    grid = torch.zeros(rows * cell_h + padding, columns * cell_w + padding, 3, dtype=torch.uint8)
    for i, image in enumerate(pixels):
        y, x = padding + (i // columns) * cell_h, padding + (i % columns) * cell_w
        grid[y : y + height, x : x + width] = image.permute(1, 2, 0)
    return grid


def screen_scale(images: Tensor) -> int:
    """How many times to enlarge ``images`` so that small ones are about 64 pixels wide."""
    return scale_of(images.shape[-1])


def scale_of(width: int) -> int:
    """:func:`screen_scale` of images of that width."""
    return max(1, 64 // width)


def picture_of(images: Tensor, columns: int | None = None, scale: int = 1) -> NDArray[np.uint8]:
    """:func:`make_grid` as uint8 [H, W, 3], its pixels enlarged. ValueError as of `save_grid`."""
    if images.dim() in (4, 5) and len(images):
        height, width = images.shape[-2:]
        check_picture(len(images), height, width, columns, scale)
    grid: NDArray[np.uint8] = make_grid(images, columns).numpy()
    return grid.repeat(scale, 0).repeat(scale, 1)


def save_grid(images: Tensor, path: Path, columns: int | None = None, scale: int = 1) -> Path:
    """Write :func:`make_grid` as :func:`save_picture` does, and return its path.

    ``scale`` enlarges every pixel, for small images on large screens.

    Raises:
        ValueError: no images, a picture beyond ``MAX_PIXELS``, or a suffix of no picture.
        OSError: the file cannot be written.
    """
    check_still(path)
    return save_picture(picture_of(images, columns, scale), path)


def check_still(path: Path) -> str:
    """Pillow's name of the format that ``path`` names by its suffix, PNG without one; ValueError
    where it is none of a picture that stands still."""
    if (suffix := path.suffix.lower()) not in _FORMATS:
        raise ValueError(f"{path}: a picture is one of {', '.join(filter(None, _FORMATS))}")
    return _FORMATS[suffix]


def save_picture(pixels: NDArray[np.uint8], path: Path) -> Path:
    """Write uint8 [H, W] or [H, W, 3] as PNG, JPEG or WebP by the suffix of ``path``, as a whole or
    not at all, and return the path. ValueError for another suffix."""
    kind = check_still(path)
    options: dict[str, Any] = {"quality": 95, "lossless": kind == "WEBP"}
    with whole_file(path) as file:
        Image.fromarray(pixels).save(file, kind, **options)
    return path


def samples_path(images: Tensor, stem: Path) -> Path:
    """Where :func:`save_samples` writes ``images``."""
    return stem.with_suffix(".npy" if shown(images) is None else ".png")


def save_samples(images: Tensor, stem: Path, columns: int | None = None) -> Path:
    """Write ``images`` as a grid, ``stem``.png; what is no picture as it is, ``stem``.npy. Returns
    the path.
    """
    path = samples_path(images, stem)
    if path.suffix == ".png":
        return save_grid(images, path, columns, scale=screen_scale(images))
    with whole_file(path) as file:
        np.save(file, images.detach().float().cpu().numpy())
    return path
