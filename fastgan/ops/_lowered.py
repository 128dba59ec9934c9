"""Convolutions as matrix products, on CPUs: `None` where ATen's convolution is to run.

As in _thin, one side is the image and position q of the other meets q * stride - padding + i of it;
weight is (channels of the positions, channels of the image, *k) for both kinds of convolution. The
columns of an image are its values under every (position, tap), with the channels innermost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastgan.ops import _processor

if TYPE_CHECKING:
    from fastgan.ops._convolution import Geometry

# "auto", or "always" and "never" to compare.
setting = "auto"

_WIDEST = 4  # positions of a row, up to which oneDNN's tiles are too short
_LEAST_CHANNELS = 128  # of the positions: products for each value of the columns written


def arithmetic(x: Tensor) -> torch.dtype:
    """The dtype in which to convolve x: float32 where that is faster than x's own."""
    half = x.dtype in (torch.bfloat16, torch.float16)
    if half and x.device.type == "cpu" and not _processor.fast_in(x.dtype):
        return torch.float32
    return x.dtype


def runs(
    x: Tensor, y_size: tuple[int, ...], weight: Tensor, geometry: Geometry, of_weight: bool = False
) -> bool:
    """Whether matrix products are faster, "auto" by measurement on CPUs with AVX-512, for every
    pass alike; of x and weight only shape, dtype and device are read.

    With one position the columns are the image itself. With rows of up to four, such as DCGAN's
    layer between 8x8 and 4x4, ATen takes 1.2 to 1.5 times as long (for the weight gradient in
    bfloat16 twice), unless the products are slow ones. The kernel has to be a multiple of the
    stride, so that columns fold onto the image by whole chunks.
    """
    if x.device.type != "cpu" or x.dim() != 4 or x.numel() == 0 or setting == "never":
        return False
    pairs = zip(weight.shape[2:], geometry.stride, strict=True)
    if any(k % s for k, s in pairs):
        return False
    if setting == "always":
        return True
    positions = tuple(x.shape[2:]) if geometry.transposed else y_size
    if max(positions) == 1:
        return max(geometry.padding) == 0
    if positions[1] > _WIDEST or min(weight.shape[:2]) < _LEAST_CHANNELS:
        return False
    return arithmetic(x) is not torch.float32 or _processor.fast_products()


def forward(x: Tensor, weight: Tensor, geometry: Geometry, size: tuple[int, ...]) -> Tensor | None:
    """conv(x), channels-last; size is that of y."""
    if not runs(x, size, weight, geometry):
        return None
    if geometry.transposed:
        return _write(x, weight, geometry, size)
    return _read(x, weight, geometry, size)


def backward_input(dy: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor | None:
    """The gradient of x, channels-last."""
    if not runs(x, tuple(dy.shape[2:]), weight, geometry):
        return None
    size = tuple(x.shape[2:])
    if geometry.transposed:
        return _read(dy, weight, geometry, size)
    return _write(dy, weight, geometry, size)


def backward_weight(dy: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor | None:
    """The gradient of weight, with the channels of the image innermost."""
    if not runs(x, tuple(dy.shape[2:]), weight, geometry):
        return None
    positions, image = (x, dy) if geometry.transposed else (dy, x)
    size, kernel = tuple(positions.shape[2:]), tuple(weight.shape[2:])
    gradient = _rows(positions).t() @ _columns(image, kernel, geometry, size)
    gradient = gradient.to(x.dtype).view(weight.shape[0], *kernel, weight.shape[1])
    return gradient.permute(0, 3, 1, 2)


def _channels_innermost(x: Tensor) -> Tensor:
    """(N, H, W, C) in the dtype of the products: x's own memory, or one copy."""
    x = x.permute(0, 2, 3, 1)
    return x.to(arithmetic(x), memory_format=torch.contiguous_format).contiguous()


def _rows(positions: Tensor) -> Tensor:
    """(N * positions, channels)."""
    return _channels_innermost(positions).view(-1, positions.shape[1])


def _matrix(weight: Tensor) -> Tensor:
    """(channels of the positions, taps * channels of the image)."""
    return _channels_innermost(weight).view(weight.shape[0], -1)


def _columns(
    image: Tensor, kernel: tuple[int, ...], geometry: Geometry, size: tuple[int, ...]
) -> Tensor:
    """(N * positions, taps * channels of the image)."""
    n, channels, height, width = image.shape
    stride, padding = geometry.stride, geometry.padding
    # To the last position's last tap; beyond the image lies padding, or nothing that a tap meets.
    extent = [(q - 1) * s + k for q, s, k in zip(size, stride, kernel, strict=True)]
    if extent == [height, width] and max(padding) == 0:
        padded = _channels_innermost(image)
    else:
        padded = image.new_zeros(n, *extent, channels, dtype=arithmetic(image))
        rows, columns = (
            max(0, min(e - p, w)) for e, p, w in zip(extent, padding, (height, width), strict=True)
        )
        inside = padded[:, padding[0] : padding[0] + rows, padding[1] : padding[1] + columns]
        inside.copy_(image.permute(0, 2, 3, 1)[:, :rows, :columns])
    of_n, of_row, of_column, _ = padded.stride()
    strides = (of_n, stride[0] * of_row, stride[1] * of_column, of_row, of_column, 1)
    view = padded.as_strided((n, *size, *kernel, channels), strides)
    return view.reshape(n * size[0] * size[1], -1)


def _read(image: Tensor, weight: Tensor, geometry: Geometry, size: tuple[int, ...]) -> Tensor:
    columns = _columns(image, tuple(weight.shape[2:]), geometry, size)
    rows = (columns @ _matrix(weight).t()).to(image.dtype)
    return rows.view(image.shape[0], *size, -1).permute(0, 3, 1, 2)


def _write(positions: Tensor, weight: Tensor, geometry: Geometry, size: tuple[int, ...]) -> Tensor:
    """Every tap's products, a chunk of the kernel as large as the stride at a time."""
    n, _, rows, columns = positions.shape
    channels, kernel, stride = weight.shape[1], weight.shape[2:], geometry.stride
    chunks = [k // s for k, s in zip(kernel, stride, strict=True)]
    of_x, of_weight = _rows(positions), _matrix(weight)
    # Products of one term each are a multiplication: as matrix products up to 7 times as slow.
    products = of_x * of_weight if of_x.shape[1] == 1 else of_x @ of_weight
    if rows == columns == 1 and size == tuple(kernel) and max(geometry.padding) == 0:
        return products.to(positions.dtype).view(n, *size, channels).permute(0, 3, 1, 2)
    products = products.view(n, rows, columns, chunks[0], stride[0], chunks[1], stride[1], channels)
    extent = [
        max(q + m - 1, -(-(p + w) // s))
        for q, m, p, w, s in zip(
            (rows, columns), chunks, geometry.padding, size, stride, strict=True
        )
    ]
    image = products.new_zeros(n, extent[0], stride[0], extent[1], stride[1], channels)
    for i in range(chunks[0]):
        for j in range(chunks[1]):
            chunk = products[:, :, :, i, :, j].transpose(2, 3)
            image[:, i : i + rows, :, j : j + columns].add_(chunk)
    top, left = geometry.padding
    image = image.view(n, extent[0] * stride[0], extent[1] * stride[1], channels)
    inside = image[:, top : top + size[0], left : left + size[1]]
    return inside.to(positions.dtype).contiguous().permute(0, 3, 1, 2)
