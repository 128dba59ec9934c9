"""What a generator can be given of an image, made from the image: less colour, size or content.

Each takes images [N, C, H, W] in [-1, 1] and gives conditions [N, ...]. Random ones (holes) draw
from torch's own random numbers, anew for each batch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

ConditionName = Literal["pairs", "grey", "edges", "lower-2", "lower-4", "box", "free-form"]

# ITU-R BT.601, of R, G, B.
LUMA = (0.299, 0.587, 0.114)
# A step of grey of this share of the whole range is an edge in full.
_FULL_EDGE = 0.25
_STROKES, _STROKE_WIDTH = 4, 1 / 12  # of a free-form hole: how many, and as a share of the side


def grey(images: Tensor) -> Tensor:
    """Luma [N, 1, H, W], in [-1, 1]; images of one channel as they are."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    # Not copied from the host, which a graph that is recorded would refuse.
    weights = torch.stack([images.new_full((), weight) for weight in LUMA])
    return (images * weights.view(3, 1, 1)).sum(1, keepdim=True)


def edges(images: Tensor) -> Tensor:
    """Edges [N, 1, H, W]: 1 where the Sobel gradient of the luma is large, -1 where it is flat."""
    across = torch.arange(-1, 2, dtype=images.dtype, device=images.device)
    kernel = (2 - across.abs())[:, None] * across / 8
    kernels = torch.stack([kernel, kernel.T])[:, None]
    padded = F.pad(grey(images), (1, 1, 1, 1), mode="replicate")
    slope = F.conv2d(padded, kernels).square().sum(1, keepdim=True).add(1e-12).sqrt()
    return (slope / _FULL_EDGE).clamp(max=1) * 2 - 1


def lower(images: Tensor, factor: int) -> Tensor:
    """Images of a `factor`-th of the sides, by antialiased bicubic interpolation.

    ValueError for sides that are no multiples of `factor`.
    """
    height, width = images.shape[-2:]
    if height % factor or width % factor:
        raise ValueError(
            f"images must have sides that are multiples of {factor}, got {height}x{width}"
        )
    size = height // factor, width // factor
    return F.interpolate(images, size, mode="bicubic", antialias=True).clamp(-1, 1)


def with_hole(images: Tensor, mask: Tensor) -> Tensor:
    """[N, C + 1, H, W]: images that are 0 where the mask [N, 1, H, W] is 1; and the mask."""
    return torch.cat([torch.where(mask > 0, torch.zeros_like(images), images), mask], 1)


def box(images: Tensor) -> Tensor:
    """`with_hole`: a box of half the sides, at a place of its own in each image."""
    count, _, height, width = images.shape
    place = torch.rand(count, 2, device=images.device, dtype=images.dtype)
    rows, columns = _axes(images)

    def inside(at: Tensor, share: Tensor, side: int) -> Tensor:
        first = (share * (side - side // 2 + 1)).floor()[:, None]
        return (at >= first) & (at < first + side // 2)

    within = inside(rows, place[:, 0], height)[:, :, None]
    mask = within & inside(columns, place[:, 1], width)[:, None]
    return with_hole(images, mask[:, None].to(images.dtype))


def free_form(images: Tensor) -> Tensor:
    """`with_hole`: broad strokes from random points to random points."""
    count, _, height, width = images.shape
    ends = torch.rand(count, _STROKES, 4, device=images.device, dtype=images.dtype)
    rows, columns = _axes(images)
    y, x = ((a + 0.5) / side for a, side in ((rows, height), (columns, width)))
    y0, x0, y1, x1 = (e[..., None, None] for e in ends.unbind(-1))
    dy, dx = y1 - y0, x1 - x0
    from_y, from_x = y[:, None] - y0, x - x0
    # Of each pixel, the place on the stroke that is nearest to it.
    along = ((from_y * dy + from_x * dx) / (dy * dy + dx * dx + 1e-6)).clamp(0, 1)
    distance = (from_y - along * dy).square() + (from_x - along * dx).square()
    mask = (distance.amin(1, keepdim=True) < _STROKE_WIDTH**2).to(images.dtype)
    return with_hole(images, mask)


def _axes(images: Tensor) -> tuple[Tensor, Tensor]:
    height, width = images.shape[-2:]
    rows, columns = (torch.arange(side, device=images.device) for side in (height, width))
    return rows.to(images.dtype), columns.to(images.dtype)


CONDITIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "grey": grey,
    "edges": edges,
    "lower-2": partial(lower, factor=2),
    "lower-4": partial(lower, factor=4),
    "box": box,
    "free-form": free_form,
}
