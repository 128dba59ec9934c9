"""Winograd convolutions F(2x2, 2x2) for a kernel of 4, stride 2 and padding 1, on CPUs.

9 products where the plain sum takes 16 (csrc/cpu/conv/winograd/kernel.h). Products are float32,
whatever the dtype of the tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.ops.conv.problem import WEIGHT_GRADIENT, Problem
from fastgan.ops.conv.run import by_role, laid_out
from fastgan.ops.core import native

_GEOMETRY = ((2, 2), (1, 1), (0, 0))  # stride, padding, output padding
_CHANNELS = 16  # channels come in multiples of it
_MIN_CHANNELS = 64  # of the image, below which the transforms outweigh the products saved
_MIN_SIDE = 4  # of the map: for 3, tiles take as many products as the plain sum
_MIN_TILES = 32  # of the batch: for fewer, transforming the weights takes as long as the products
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


TIME = 0.5


def name(p: Problem) -> str:
    return "Winograd F(2x2, 2x2)"


def supports(p: Problem) -> bool:
    stride, padding, extra, transposed = p.geometry
    return (
        p.device == "cpu"
        and p.dims == 2
        and p.channels_last
        and p.dtype in _DTYPES
        and p.weight_dtype is p.dtype
        and p.kernel == (4, 4)
        and (tuple(stride), tuple(padding), tuple(extra)) == _GEOMETRY
        and not any(channels % _CHANNELS for channels in p.weight[:2])
        and (transposed or not any(size % 2 for size in p.x[2:]))
        and p.x[0] > 0
        and native.load() is None
    )


def prefers(p: Problem) -> bool:
    """By measurement on CPUs with AVX-512 and AVX2. Not in half precision where the processor has
    instructions for it: they do twice as much."""
    rows, columns = p.map[2:]
    if min(p.weight[:2]) < _MIN_CHANNELS or min(rows, columns) < _MIN_SIDE:
        return False
    tiles = p.x[0] * ((rows + 1) // 2) * ((columns + 1) // 2)
    enough = p.of == WEIGHT_GRADIENT or tiles >= _MIN_TILES
    return enough and p.arithmetic is torch.float32


def beats_eager(p: Problem, grad_x: bool) -> bool:
    """A DCGAN generator of width 32 trains 1.2 to 1.4 times as fast, channels-last."""
    return True


def to_map(p: Problem, image: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    found: Tensor = torch.ops.fastgan.winograd_conv(laid_out(p, image), laid_out(p, weight), bias)
    return found


def to_image(p: Problem, map: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    found: Tensor = torch.ops.fastgan.winograd_conv_transpose(
        laid_out(p, map), laid_out(p, weight), bias
    )
    return found


def to_weight(p: Problem, image: Tensor, map: Tensor) -> Tensor:
    found: Tensor = torch.ops.fastgan.winograd_conv_weight(laid_out(p, image), laid_out(p, map))
    return found


run = by_role(to_map, to_image, to_weight)
