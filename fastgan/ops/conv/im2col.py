"""Convolutions as im2col and a matrix product (GEMM), on CPUs.

The columns of an image are its values under every (position of the map, tap), with the channels
innermost.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastgan.ops.conv.problem import Problem
from fastgan.ops.conv.run import by_role
from fastgan.ops.core import processor

_SHORT_ROW = 4  # columns of the map, up to which oneDNN's tiles are too short
_MIN_CHANNELS = 128  # of the map: products for each value of the columns written
_MIN_BATCH = 32  # of one position, below which oneDNN with packed weights is as fast


TIME = 0.8


def name(p: Problem) -> str:
    return "im2col + GEMM"


def supports(p: Problem) -> bool:
    """The kernel has to be a multiple of the stride, so that columns fold onto the image by whole
    chunks."""
    return (
        p.device == "cpu"
        and p.dims == 2
        and 0 not in p.x
        and not any(k % s for k, s in zip(p.kernel, p.geometry.stride, strict=True))
    )


def is_product(p: Problem) -> bool:
    """Whether the columns are the image itself: one position, which meets all of it."""
    return max(p.map[2:]) == 1 and p.image[2:] == p.kernel and max(p.geometry.padding) == 0


def prefers(p: Problem) -> bool:
    """By measurement on CPUs with AVX-512, for every pass alike.

    With one position the columns are the image itself. With rows of up to four, such as DCGAN's
    layer between 8x8 and 4x4, ATen takes 1.2 to 1.5 times as long (for the weight gradient in
    bfloat16 twice), unless the products are slow ones.
    """
    size = p.map[2:]
    if max(size) == 1:
        return max(p.geometry.padding) == 0
    if size[1] > _SHORT_ROW or min(p.weight[:2]) < _MIN_CHANNELS:
        return False
    if any(n < k for n, k in zip(p.image[2:], p.kernel, strict=True)):
        return False  # much of the columns is padding
    return p.arithmetic is not torch.float32 or processor.fast_products()


def prefers_packed(p: Problem) -> bool:
    """From or to one position, where there are rows enough for a matrix product."""
    return is_product(p) and p.x[0] >= _MIN_BATCH


def beats_eager(p: Problem, grad_x: bool) -> bool:
    """Layers from or to one position take 0.7 to 1.0 of eager's time with gradients, and 1.2 to 1.5
    without."""
    return max(p.map[2:]) == 1 and torch.is_grad_enabled()


def to_map(p: Problem, image: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    columns = _columns(p, image, p.kernel, p.geometry.stride, p.geometry.padding, p.map[2:])
    rows = _products(columns, _matrix(p, weight).t(), bias).to(image.dtype)
    return rows.view(image.shape[0], *p.map[2:], -1).permute(0, 3, 1, 2)


def to_image(p: Problem, map: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Written a chunk of the kernel as large as the stride at a time."""
    n, channels, size, padding = map.shape[0], p.image[1], p.image[2:], p.geometry.padding
    if is_product(p):
        bias = None if bias is None else bias.repeat(math.prod(size))
        products = _products(_rows(p, map), _matrix(p, weight), bias)
        return products.to(map.dtype).view(n, *size, channels).permute(0, 3, 1, 2)
    stride = p.geometry.stride
    chunks = tuple(k // s for k, s in zip(p.kernel, stride, strict=True))
    extent = tuple(
        max(q + m - 1, -(-(pad + w) // s))
        for q, m, pad, w, s in zip(p.map[2:], chunks, padding, size, stride, strict=True)
    )
    folded = _folded if p.arithmetic in (torch.float32, torch.float64) else _gathered
    image = folded(p, map, weight, bias, chunks, extent)
    image = image.reshape(n, extent[0] * stride[0], extent[1] * stride[1], channels)
    top, left = padding
    inside = image[:, top : top + size[0], left : left + size[1]]
    return inside.to(map.dtype).contiguous().permute(0, 3, 1, 2)


def _folded(
    p: Problem,
    map: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    chunks: tuple[int, ...],
    extent: tuple[int, ...],
) -> Tensor:
    """(N, extent[0], stride[0], extent[1], stride[1], channels): every tap's products, summed."""
    n, _, rows, columns = map.shape
    channels, stride = p.image[1], p.geometry.stride
    products = _products(_rows(p, map), _matrix(p, weight), None)
    products = products.view(n, rows, columns, chunks[0], stride[0], chunks[1], stride[1], channels)
    image = products.new_zeros(n, extent[0], stride[0], extent[1], stride[1], channels)
    if bias is not None:
        image += bias.to(image.dtype)
    for i in range(chunks[0]):
        for j in range(chunks[1]):
            chunk = products[:, :, :, i, :, j].transpose(2, 3)
            image[:, i : i + rows, :, j : j + columns].add_(chunk)
    return image


def _gathered(
    p: Problem,
    map: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    chunks: tuple[int, ...],
    extent: tuple[int, ...],
) -> Tensor:
    """As _folded, for products that would be rounded before they are summed: one product for each
    pixel, of the positions that it meets, one in every chunk, the first chunk's last.
    """
    stride = p.geometry.stride
    columns = _columns(p, map, chunks, (1, 1), tuple(m - 1 for m in chunks), extent)
    by_chunk = weight.to(p.arithmetic).unflatten(3, (chunks[1], stride[1]))
    by_chunk = by_chunk.unflatten(2, (chunks[0], stride[0])).flip(2, 4)
    matrix = by_chunk.permute(2, 4, 0, 3, 5, 1).reshape(columns.shape[1], -1)
    bias = None if bias is None else bias.repeat(math.prod(stride))
    image = _products(columns, matrix, bias)
    return image.view(map.shape[0], *extent, *stride, p.image[1]).transpose(2, 3)


def to_weight(p: Problem, image: Tensor, map: Tensor) -> Tensor:
    """With the channels of the image innermost."""
    gradient = _rows(p, map).t() @ _columns(
        p, image, p.kernel, p.geometry.stride, p.geometry.padding, p.map[2:]
    )
    gradient = gradient.to(p.dtype).view(p.weight[0], *p.kernel, p.weight[1])
    return gradient.permute(0, 3, 1, 2)


run = by_role(to_map, to_image, to_weight)


def _channels_innermost(p: Problem, t: Tensor) -> Tensor:
    """(N, H, W, C) in the dtype of the products: t's own memory, or one copy."""
    t = t.permute(0, 2, 3, 1)
    return t.to(p.arithmetic, memory_format=torch.contiguous_format).contiguous()


def _rows(p: Problem, map: Tensor) -> Tensor:
    """(N * positions, channels)."""
    return _channels_innermost(p, map).view(-1, map.shape[1])


def _matrix(p: Problem, weight: Tensor) -> Tensor:
    """(channels of the map, taps * channels of the image)."""
    return _channels_innermost(p, weight).view(weight.shape[0], -1)


def _products(rows: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    """rows @ matrix + bias, which is of the columns: each sum is rounded once."""
    bias = None if bias is None else bias.to(rows.dtype)
    if rows.shape[1] > 1:
        return rows @ matrix if bias is None else torch.addmm(bias, rows, matrix)
    # Products of one term each are a multiplication: as matrix products up to 7 times as slow.
    return rows * matrix if bias is None else torch.addcmul(bias, rows, matrix)


def _columns(
    p: Problem,
    image: Tensor,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    size: tuple[int, ...],
) -> Tensor:
    """(N * positions, taps * channels of the image)."""
    n, channels, height, width = image.shape
    # To the last position's last tap; beyond the image lies padding, or nothing that a tap meets.
    extent = [(q - 1) * s + k for q, s, k in zip(size, stride, kernel, strict=True)]
    if extent == [height, width] and max(padding) == 0:
        padded = _channels_innermost(p, image)
    else:
        padded = image.new_zeros(n, *extent, channels, dtype=p.arithmetic)
        rows, columns = (
            max(0, min(e - pad, w))
            for e, pad, w in zip(extent, padding, (height, width), strict=True)
        )
        inside = padded[:, padding[0] : padding[0] + rows, padding[1] : padding[1] + columns]
        inside.copy_(image.permute(0, 2, 3, 1)[:, :rows, :columns])
    of_n, of_row, of_column, _ = padded.stride()
    strides = (of_n, stride[0] * of_row, stride[1] * of_column, of_row, of_column, 1)
    view = padded.as_strided((n, *size, *kernel, channels), strides)
    return view.reshape(n * size[0] * size[1], -1)
