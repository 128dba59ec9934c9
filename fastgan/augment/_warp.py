"""Affine resampling without aliasing, differentiable to any order.

An image is upsampled to twice its size by an orthogonal wavelet's low-pass filter, sampled there
bilinearly, and downsampled by the same filter reversed. The filter is orthogonal to its shifts by
two, so the identity gives the image back. Source: Karras et al. 2020, "Training Generative
Adversarial Networks with Limited Data", appendix B.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan.augment._pixels import extend

# The symlet with six vanishing moments (Daubechies 1992): sum √2, norm 1.
SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
# u[m] = √2 Σ_n h[m - 2n + 5] x[n]; down again by the transpose of this, halved, which reads five
# samples beyond either end. Sample m lies at (m + ½ + DELAY) / 2 pixels from the image's edge: the
# filter is not quite symmetric, and its centre of mass is not quite between two samples.
_ORIGIN = 5
_DELAY = _ORIGIN + 0.5 - sum(k * h for k, h in enumerate(SYM6)) / sum(SYM6)
# Samples that are made beyond either end, and how far they reach, in pixels.
_MARGIN = 6
_REACH = 2.5


def warp(images: Tensor, inverse: Tensor, taps: Tensor) -> Tensor:
    """Each image under its own affine map.

    Args:
        images: [N, C, H, W], float32 or float64.
        inverse: [N, 2, 3]; the output at (x, y) is the input at inverse · (x, y, 1), in pixels from
            the image's centre, x to the right and y down. Beyond its edges an image is mirrored.
        taps: SYM6, on the images' device.
    """
    height, width = images.shape[2:]
    taps = taps.to(images.dtype)
    up_y, up_x = _upsampling(height, taps), _upsampling(width, taps)
    down_y, down_x = _downsampling(height, taps), _downsampling(width, taps)
    sampled: Tensor = _Sample.apply(up_y @ (images @ up_x.T), _grid(images, inverse))
    return down_y @ (sampled @ down_x.T)


# As matrices the filters bring the mirrored edges along, and a matrix product outruns a convolution
# of one channel, on a CPU many times over.
def _upsampling(side: int, taps: Tensor) -> Tensor:
    """[2 side + 2 MARGIN, side]"""
    pixels = torch.eye(side, device=taps.device, dtype=taps.dtype)
    mirrored = extend(pixels, _MARGIN, 1).unsqueeze(1)
    kernel = (taps * math.sqrt(2)).view(1, 1, -1)
    return F.conv_transpose1d(mirrored, kernel, stride=2, padding=len(SYM6) - 1).squeeze(1).T


def _downsampling(side: int, taps: Tensor) -> Tensor:
    """[side, 2 side + 2 ORIGIN]"""
    samples = torch.eye(2 * (side + _ORIGIN), device=taps.device, dtype=taps.dtype).unsqueeze(1)
    return F.conv1d(samples, (taps / math.sqrt(2)).view(1, 1, -1), stride=2).squeeze(1).T


def _grid(images: Tensor, inverse: Tensor) -> Tensor:
    """Where the samples to be downsampled lie in the upsampled image, as grid_sample counts.

    Elementwise: in a matrix product, TF32 would misplace pixels of a large image.
    """
    height, width = images.shape[2:]
    m = inverse.to(images.dtype)[..., None, None]
    y, x = _positions(images, height).view(1, -1, 1), _positions(images, width).view(1, 1, -1)
    from_x = m[:, 0, 0] * x + m[:, 0, 1] * y + m[:, 0, 2]
    from_y = m[:, 1, 0] * x + m[:, 1, 1] * y + m[:, 1, 2]
    return torch.stack([_as_grid(from_x, width), _as_grid(from_y, height)], dim=-1)


def _positions(images: Tensor, side: int) -> Tensor:
    """Of the samples that the downsampling reads, in pixels from the image's centre."""
    first, end = -_ORIGIN, 2 * side + _ORIGIN
    sample = torch.arange(first, end, device=images.device, dtype=images.dtype)
    return (sample + 0.5 + _DELAY) / 2 - side / 2


def _as_grid(position: Tensor, side: int) -> Tensor:
    from_edge = position + side / 2
    mirrored = from_edge % (2 * side)
    mirrored = torch.minimum(mirrored, 2 * side - mirrored)
    # The samples beyond an edge are there for the identity: they are not quite the mirror image.
    there = (from_edge >= -_REACH) & (from_edge <= side + _REACH)
    from_edge = torch.where(there, from_edge, mirrored)
    index = 2 * from_edge - 0.5 - _DELAY + _MARGIN
    return (2 * index + 1) / (2 * side + 2 * _MARGIN) - 1


# Bilinear, zero outside (where nothing is sampled), edges half a sample beyond the outermost ones.
_MODES = (0, 0, False)


class _Sample(torch.autograd.Function):
    """grid_sample of `maps`, which it is linear in: its adjoint's adjoint is itself.

    torch's own has had no second derivative in all the versions that are supported.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(maps: Tensor, grid: Tensor) -> Tensor:
        return torch.grid_sampler_2d(maps, grid, *_MODES)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        maps, grid = inputs
        ctx.save_for_backward(grid)
        ctx.save_for_forward(grid)
        ctx.size = maps.shape[2:]

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: Any) -> Tensor:
        (grid,) = ctx.saved_tensors
        return _Sample.apply(tangent, grid)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (grid,) = ctx.saved_tensors
        return _SampleAdjoint.apply(gradient, grid, *ctx.size), None


class _SampleAdjoint(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor, grid: Tensor, height: int, width: int) -> Tensor:
        # Only the shape of the maps counts where the grid's gradient is not asked for.
        maps = gradient.new_zeros(()).expand(*gradient.shape[:2], height, width)
        adjoint, _ = torch.ops.aten.grid_sampler_2d_backward(
            gradient, maps, grid, *_MODES, [True, False]
        )
        return adjoint

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, grid, *ctx.size = inputs
        ctx.save_for_backward(grid)
        ctx.save_for_forward(grid)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        (grid,) = ctx.saved_tensors
        return _SampleAdjoint.apply(tangent, grid, *ctx.size)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (grid,) = ctx.saved_tensors
        return _Sample.apply(gradient, grid), None, None, None
