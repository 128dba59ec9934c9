"""Convolutions of bfloat16 tensors by the processor's dot products of pairs, on CPUs: `None` where
another kernel is to run.

Products are of bfloat16, sums float32 (csrc/cpu/dot_conv.h); a float32 weight is rounded as it is
packed, and its gradient left in float32. As in _thin, _winograd and _lowered
one side is the image, position q of the other meets q * stride - padding + i of it, and weight is
(channels of the positions, channels of the image, *k) for both kinds of convolution.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastgan.ops import _native, _processor
from fastgan.ops._tensors import is_channels_last

if TYPE_CHECKING:
    from fastgan.ops._convolution import Geometry

# "auto", or "always" and "never" to compare.
setting = "auto"

_QUANTUM = 16  # channels come in multiples of it
_LEAST_CHANNELS = 64
_WIDEST = 4  # positions of a row, up to which oneDNN's tiles are too short


def _can(x: Tensor, weight: Tensor) -> bool:
    return (
        setting != "never"
        and x.device.type == "cpu"
        and x.dim() == 4
        and x.dtype is torch.bfloat16
        and weight.dtype in (torch.bfloat16, torch.float32)
        and not any(channels % _QUANTUM for channels in weight.shape[:2])
        and x.numel() > 0
        and is_channels_last(x)
        and _native.load() is None
    )


def runs(
    x: Tensor, y_size: tuple[int, ...], weight: Tensor, geometry: Geometry, of_weight: bool = False
) -> bool:
    """Whether a pass runs here (all or none), "auto" by measurement on Zen 5; of the tensors only
    shape, dtype, layout and device are read.

    With a stride oneDNN takes 1.5 to 2.1 times as long for the weight gradient, 0.95 to 1.4 times
    for the other passes, longest for rows of up to four positions; and its weights and their
    gradient have to be converted.
    """
    if not _can(x, weight):
        return False
    if setting == "always":
        return True
    if min(weight.shape[:2]) < _LEAST_CHANNELS or not _processor.dot_products():
        return False
    positions = tuple(x.shape[2:]) if geometry.transposed else y_size
    if positions[1] <= _WIDEST:
        return max(positions) > 1
    return min(geometry.stride) > 1


def forward(x: Tensor, weight: Tensor, geometry: Geometry, size: tuple[int, ...]) -> Tensor | None:
    """conv(x), channels-last; size is that of y."""
    if not runs(x, size, weight, geometry):
        return None
    return (_write if geometry.transposed else _read)(x, weight, geometry, size)


def backward_input(dy: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor | None:
    """The gradient of x, channels-last."""
    if not runs(x, tuple(dy.shape[2:]), weight, geometry):
        return None
    return (_read if geometry.transposed else _write)(dy, weight, geometry, tuple(x.shape[2:]))


def backward_weight(dy: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor | None:
    """The gradient of weight, channels-last."""
    if not runs(x, tuple(dy.shape[2:]), weight, geometry):
        return None
    image, positions = (dy, x) if geometry.transposed else (x, dy)
    gradient: Tensor = torch.ops.fastgan_native.dot_conv_weight(
        _laid_out(image), _laid_out(positions), list(weight.shape[2:]), *geometry[:2], weight.dtype
    )
    return gradient


def _read(image: Tensor, weight: Tensor, geometry: Geometry, size: tuple[int, ...]) -> Tensor:
    positions: Tensor = torch.ops.fastgan_native.dot_conv(
        _laid_out(image), _laid_out(weight), *geometry[:2], size
    )
    return positions


def _write(positions: Tensor, weight: Tensor, geometry: Geometry, size: tuple[int, ...]) -> Tensor:
    image: Tensor = torch.ops.fastgan_native.dot_conv_transpose(
        _laid_out(positions), _laid_out(weight), *geometry[:2], size
    )
    return image


def _laid_out(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
