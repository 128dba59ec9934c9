"""Convolutions as im2col and a matrix product (GEMM), on CPUs.

The columns of an image are its values under every (position of the map, tap), with the channels
innermost.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.ops import _processor
from fastgan.ops.conv.problem import Problem
from fastgan.ops.conv.run import by_role

_SHORT_ROW = 4  # columns of the map, up to which oneDNN's tiles are too short
_MIN_CHANNELS = 128  # of the map: products for each value of the columns written


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
    return p.arithmetic is not torch.float32 or _processor.fast_products()


def beats_eager(p: Problem, grad_x: bool) -> bool:
    """Layers from or to one position take 0.7 to 1.0 of eager's time with gradients, and 1.2 to 1.5
    without."""
    return max(p.map[2:]) == 1 and torch.is_grad_enabled()


def to_map(p: Problem, image: Tensor, weight: Tensor) -> Tensor:
    columns = _columns(p, image)
    rows = (columns @ _matrix(p, weight).t()).to(image.dtype)
    return rows.view(image.shape[0], *p.map[2:], -1).permute(0, 3, 1, 2)


def to_image(p: Problem, map: Tensor, weight: Tensor) -> Tensor:
    """Every tap's products, folded a chunk of the kernel as large as the stride at a time."""
    n, _, rows, columns = map.shape
    channels, kernel, stride = p.image[1], p.kernel, p.geometry.stride
    size, padding = p.image[2:], p.geometry.padding
    chunks = [k // s for k, s in zip(kernel, stride, strict=True)]
    of_map, of_weight = _rows(p, map), _matrix(p, weight)
    # Products of one term each are a multiplication: as matrix products up to 7 times as slow.
    products = of_map * of_weight if of_map.shape[1] == 1 else of_map @ of_weight
    if rows == columns == 1 and size == kernel and max(padding) == 0:
        return products.to(map.dtype).view(n, *size, channels).permute(0, 3, 1, 2)
    products = products.view(n, rows, columns, chunks[0], stride[0], chunks[1], stride[1], channels)
    extent = [
        max(q + m - 1, -(-(pad + w) // s))
        for q, m, pad, w, s in zip((rows, columns), chunks, padding, size, stride, strict=True)
    ]
    image = products.new_zeros(n, extent[0], stride[0], extent[1], stride[1], channels)
    for i in range(chunks[0]):
        for j in range(chunks[1]):
            chunk = products[:, :, :, i, :, j].transpose(2, 3)
            image[:, i : i + rows, :, j : j + columns].add_(chunk)
    top, left = padding
    image = image.view(n, extent[0] * stride[0], extent[1] * stride[1], channels)
    inside = image[:, top : top + size[0], left : left + size[1]]
    return inside.to(map.dtype).contiguous().permute(0, 3, 1, 2)


def to_weight(p: Problem, image: Tensor, map: Tensor) -> Tensor:
    """With the channels of the image innermost."""
    gradient = _rows(p, map).t() @ _columns(p, image)
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


def _columns(p: Problem, image: Tensor) -> Tensor:
    """(N * positions, taps * channels of the image)."""
    n, channels, height, width = image.shape
    stride, padding, size = p.geometry.stride, p.geometry.padding, p.map[2:]
    # To the last position's last tap; beyond the image lies padding, or nothing that a tap meets.
    extent = [(q - 1) * s + k for q, s, k in zip(size, stride, p.kernel, strict=True)]
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
    view = padded.as_strided((n, *size, *p.kernel, channels), strides)
    return view.reshape(n * size[0] * size[1], -1)
