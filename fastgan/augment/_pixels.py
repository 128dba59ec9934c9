"""Moving whole pixels: every image of a batch its own way, in one gather."""

from __future__ import annotations

import torch
from torch import Tensor


def take(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """out[n, :, y, x] = images[n, :, rows[n, y, x], columns[n, y, x]], channels-last.

    rows and columns are int64 and broadcast to [N, H, W].
    """
    n, channels, height, width = images.shape
    source = (rows * width + columns).expand(n, height, width).reshape(n, -1, 1)
    pixels = images.permute(0, 2, 3, 1).reshape(n, -1, channels)
    moved = pixels.gather(1, source.expand(-1, -1, channels))
    return moved.view(n, height, width, channels).permute(0, 3, 1, 2)


def coordinates(images: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column numbers, [1, H, 1] and [1, 1, W], int64."""
    height, width = images.shape[2:]
    rows = torch.arange(height, device=images.device).view(1, -1, 1)
    return rows, torch.arange(width, device=images.device).view(1, 1, -1)


def mirrored(index: Tensor, size: int) -> Tensor:
    """`index` folded into [0, size): ... 1 0 | 0 1 2 ... size-1 | size-1 size-2 ..."""
    index = index % (2 * size)
    return torch.minimum(index, 2 * size - 1 - index)


def shift(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Each image moved by whole pixels, `down` [N] and `right` [N]; what comes in is zero."""
    rows, columns = coordinates(images)
    rows, columns = rows - down.view(-1, 1, 1), columns - right.view(-1, 1, 1)
    height, width = images.shape[2:]
    outside = (rows < 0) | (rows >= height) | (columns < 0) | (columns >= width)
    # Wrapped, so that no two pixels come from one and the gradient sums in a fixed order.
    moved = take(images, rows % height, columns % width)
    return moved.masked_fill(outside.unsqueeze(1), 0.0)


def blit(images: Tensor, flip: Tensor, turns: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Each image mirrored, turned by right angles and moved, in that order; no pixel is changed.

    Args:
        flip: bool [N], left to right.
        turns: int64 [N], quarter turns counterclockwise as of `torch.rot90`, in [0, 4); only even
            ones where images are not square.
        down, right: int64 [N], pixels; what comes in is the mirror image.

    Flips and turns are permutations of pixels, and so invertible.
    """
    height, width = images.shape[2:]
    rows, columns = coordinates(images)
    y = mirrored(rows - down.view(-1, 1, 1), height)
    x = mirrored(columns - right.view(-1, 1, 1), width)
    turns = turns.view(-1, 1, 1)
    odd, back = turns % 2 == 1, turns >= 2
    y, x = torch.where(odd, x, y), torch.where(odd, width - 1 - y, x)
    y, x = torch.where(back, height - 1 - y, y), torch.where(back, width - 1 - x, x)
    x = torch.where(flip.view(-1, 1, 1), width - 1 - x, x)
    return take(images, y, x)


def extend(images: Tensor, margin: int, dim: int) -> Tensor:
    """`images` with `margin` mirrored pixels more at either end of `dim`."""
    while margin > 0:
        size = images.shape[dim]
        step = min(margin, size)
        before = images.narrow(dim, 0, step).flip(dim)
        after = images.narrow(dim, size - step, step).flip(dim)
        images = torch.cat([before, images, after], dim)
        margin -= step
    return images
