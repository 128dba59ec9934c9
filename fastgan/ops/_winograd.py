"""Convolutions with a kernel of 4, stride 2 and padding 1 by minimal filtering, on CPUs.

`None` where another kernel is to run. Winograd's F(2x2, 2x2) takes 9 products where the plain sum
takes 16 (csrc/cpu/winograd.h); products are float32, whatever the dtype of the tensors. As in _thin
and _lowered one side is the image, the other has the positions, half as many in each direction, and
weight is (channels of the positions, channels of the image, 4, 4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastgan.ops import _lowered, _native
from fastgan.ops._tensors import is_channels_last

if TYPE_CHECKING:
    from fastgan.ops._convolution import Geometry

# "auto", or "always" and "never" to compare.
setting = "auto"

_GEOMETRY = ((2, 2), (1, 1), (0, 0))  # stride, padding, output padding
_QUANTUM = 16  # channels come in multiples of it
_LEAST_CHANNELS = 64  # of the image, below which the transforms outweigh the products saved
_LEAST_POSITIONS = 4  # of a row or column: for 3, tiles take as many products as the plain sum
_LEAST_TILES = 32  # of the batch: for fewer, transforming the weights takes as long as the products
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def runs(
    x: Tensor, y_size: tuple[int, ...], weight: Tensor, geometry: Geometry, of_weight: bool = False
) -> bool:
    """Whether minimal filtering is faster, "auto" by measurement on CPUs with AVX-512 and AVX2; of
    the tensors only shape, dtype, layout and device are read.

    Not in half precision where the processor has instructions for it: they do twice as much.
    """
    stride, padding, extra, transposed = geometry
    if (
        setting == "never"
        or x.device.type != "cpu"
        or x.dim() != 4
        or x.dtype not in _DTYPES
        or weight.dtype is not x.dtype
        or tuple(weight.shape[2:]) != (4, 4)
        or (tuple(stride), tuple(padding), tuple(extra)) != _GEOMETRY
        or any(channels % _QUANTUM for channels in weight.shape[:2])
        or (not transposed and any(size % 2 for size in x.shape[2:]))
        or x.numel() == 0
        or not is_channels_last(x)
        or _native.load() is not None
    ):
        return False
    if setting == "always":
        return True
    rows, columns = x.shape[2:] if transposed else y_size
    if min(weight.shape[:2]) < _LEAST_CHANNELS or min(rows, columns) < _LEAST_POSITIONS:
        return False
    tiles = x.shape[0] * ((rows + 1) // 2) * ((columns + 1) // 2)
    return (of_weight or tiles >= _LEAST_TILES) and _lowered.arithmetic(x) is torch.float32


def forward(x: Tensor, weight: Tensor, geometry: Geometry, size: tuple[int, ...]) -> Tensor | None:
    """conv(x), channels-last; size is that of y."""
    if not runs(x, size, weight, geometry):
        return None
    return _write(x, weight) if geometry.transposed else _read(x, weight)


def backward_input(dy: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor | None:
    """The gradient of x, channels-last."""
    if not runs(x, tuple(dy.shape[2:]), weight, geometry):
        return None
    return _read(dy, weight) if geometry.transposed else _write(dy, weight)


def backward_weight(dy: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor | None:
    """The gradient of weight, channels-last."""
    if not runs(x, tuple(dy.shape[2:]), weight, geometry, of_weight=True):
        return None
    image, positions = (dy, x) if geometry.transposed else (x, dy)
    gradient: Tensor = torch.ops.fastgan_native.winograd_conv_weight(
        _laid_out(image), _laid_out(positions)
    )
    return gradient


def _read(image: Tensor, weight: Tensor) -> Tensor:
    positions: Tensor = torch.ops.fastgan_native.winograd_conv(_laid_out(image), _laid_out(weight))
    return positions


def _write(positions: Tensor, weight: Tensor) -> Tensor:
    image: Tensor = torch.ops.fastgan_native.winograd_conv_transpose(
        _laid_out(positions), _laid_out(weight)
    )
    return image


def _laid_out(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
