"""Sample grids."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def make_grid(images: Tensor, columns: int | None = None, padding: int = 2) -> Tensor:
    """Tile ``images`` into one picture, row by row.

    Args:
        images: float ``[N, C, H, W]`` in [-1, 1]; C is 1 or 3, others show their first channel.
        columns: images a row; by default the square's side.
        padding: black pixels around each image.

    Returns:
        uint8 ``[H', W', 3]`` on the CPU.

    Raises:
        ValueError: ``images`` is not 4-D or has no image.
    """
    if images.dim() != 4 or images.shape[0] == 0:
        raise ValueError(f"images must be [N, C, H, W] with N >= 1, got {tuple(images.shape)}")
    pixels = images.detach().float().add(1).mul(127.5).round().clamp(0, 255).to("cpu", torch.uint8)
    if pixels.shape[1] != 3:
        pixels = pixels[:, :1].expand(-1, 3, -1, -1)
    count, _, height, width = pixels.shape
    columns = columns or math.isqrt(count - 1) + 1
    rows = -(-count // columns)
    cell_h, cell_w = height + padding, width + padding
    grid = torch.zeros(rows * cell_h + padding, columns * cell_w + padding, 3, dtype=torch.uint8)
    for i, image in enumerate(pixels):
        y, x = padding + (i // columns) * cell_h, padding + (i % columns) * cell_w
        grid[y : y + height, x : x + width] = image.permute(1, 2, 0)
    return grid


def screen_scale(images: Tensor) -> int:
    """How many times to enlarge ``images`` so that small ones are about 64 pixels wide."""
    return max(1, 64 // images.shape[-1])


def save_grid(images: Tensor, path: Path, columns: int | None = None, scale: int = 1) -> Path:
    """Write :func:`make_grid` as a PNG, as a whole or not at all, and return its path.

    ``scale`` enlarges every pixel, for small images on large screens.
    """
    grid = make_grid(images, columns).numpy()
    grid = np.repeat(np.repeat(grid, scale, 0), scale, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        Image.fromarray(grid).save(partial, format="PNG")
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    return path
