"""Triton launchers of convolutions from and to an image of at most four channels.

No autograd. Image and map are channels-last and of one dtype: float32, bfloat16 or float16; biases
float32 or None. The *map* is the side of many channels: its position q meets the image at q *
stride - padding + tap. The weight is (channels of the map, channels of the image, *kernel), of any
such dtype and layout. Sums are float32, and go from the product to memory in one launch; the weight
gradient takes a second one, which adds up slices in a fixed order.
"""

from math import gcd, prod
from typing import Any

import torch

from fastgan.kernels.conv_block.forward import Activation
from fastgan.kernels.conv_block.tma.plan import Boxes, boxes
from fastgan.kernels.conv_block.weight import add_slices
from fastgan.kernels.core.geometry import cdiv, device_guard, is_channels_last
from fastgan.kernels.core.precision import precision
from fastgan.kernels.small_channels.kernels import (
    from_image_kernel,
    image_weight_kernel,
    to_image_kernel,
)
from fastgan.kernels.small_channels.plan import (
    FROM_IMAGE,
    TO_IMAGE,
    TO_WEIGHT,
    Tile,
    kind,
    pixel_columns,
    weight_slices,
)

__all__ = ["from_image", "image_weight_gradient", "to_image"]

Tensor = torch.Tensor
Pair = tuple[int, int]


def from_image(
    image: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    size: Pair,
    act: Activation,
    *,
    input_precision: str | None = None,
) -> Tensor:
    """The map act(conv(image) + bias), of ``size`` positions an image."""
    input_precision = input_precision or precision(image)
    tile = FROM_IMAGE[kind(image.dtype, input_precision)]
    out = _empty(image, weight.shape[0], size)
    found = boxes(tile.block_m, image.shape[0], *size)
    with device_guard(image):
        from_image_kernel[(found.count * cdiv(weight.shape[0], tile.block_n),)](
            image, weight, bias, out, act.slope, *_sizes(found, image, out), *weight.stride(),
            **_constants(out, weight, stride, padding, input_precision), ACT=act.kernel_code,
            **_blocks(found, tile),
        )  # fmt: skip
    return out


def to_image(
    wide: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    size: Pair,
    act: Activation,
    *,
    input_precision: str | None = None,
) -> Tensor:
    """The image act(transposed conv(wide) + bias), of ``size``."""
    input_precision = input_precision or precision(wide)
    tile = TO_IMAGE[kind(wide.dtype, input_precision)]
    tile = tile._replace(block_n=pixel_columns(weight.shape[1], stride))
    out = _empty(wide, weight.shape[1], size)
    found = boxes(tile.block_m, wide.shape[0], *map(cdiv, size, stride))
    with device_guard(wide):
        to_image_kernel[(found.count,)](
            wide, weight, bias, out, act.slope, *_sizes(found, out, wide), *weight.stride(),
            **_constants(wide, weight, stride, padding, input_precision), ACT=act.kernel_code,
            **_blocks(found, tile),
        )  # fmt: skip
    return out


def image_weight_gradient(
    image: Tensor,
    wide: Tensor,
    like: Tensor,
    stride: Pair,
    padding: Pair,
    *,
    input_precision: str | None = None,
) -> Tensor:
    """The gradient of a weight of image and map, written to a tensor like ``like``, which is
    channels-last or contiguous and not read.
    """
    input_precision = input_precision or precision(image)
    tile = TO_WEIGHT[kind(image.dtype, input_precision)]
    channels, few, *kernel = like.shape
    columns = few * prod(kernel)
    found = boxes(tile.block_m, wide.shape[0], *wide.shape[2:])
    blocks = cdiv(channels, tile.block_n) * cdiv(columns, tile.block_k)
    slices, length = weight_slices(found.count, blocks)
    partial = image.new_empty((slices, channels, columns), dtype=torch.float32)
    out = torch.empty_like(like)
    with device_guard(image):
        image_weight_kernel[(slices * blocks,)](
            image, wide, partial, found.count, length, *_sizes(found, image, wide),
            **_constants(wide, like, stride, padding, input_precision), **_blocks(found, tile),
        )  # fmt: skip
        add_slices(partial, out, prod(kernel), is_channels_last(out))
    return out


def _empty(like: Tensor, channels: int, size: Pair) -> Tensor:
    """An unwritten channels-last tensor of as many images."""
    return like.new_empty((like.shape[0], *size, channels)).movedim(-1, 1)


def _sizes(found: Boxes, image: Tensor, wide: Tensor) -> tuple[int, ...]:
    """BOX_ARGUMENTS of the kernels."""
    n, channels, rows, columns = wide.shape
    height, width = image.shape[2:]
    units = channels // gcd(channels, 16)
    return n, *found.tiles[1:], units, height, width, rows, columns


def _constants(
    wide: Tensor, weight: Tensor, stride: Pair, padding: Pair, input_precision: str
) -> dict[str, Any]:
    letters = {"K": weight.shape[2:], "S": stride, "P": padding}
    axes = {k + axis: v[i] for k, v in letters.items() for i, axis in enumerate("HW")}
    vec = gcd(wide.shape[1], 16)
    return {"FEW": weight.shape[1], **axes, "VEC": vec, "PRECISION": input_precision}


def _blocks(found: Boxes, tile: Tile) -> dict[str, int]:
    size = dict(zip(("BLOCK_I", "BLOCK_H", "BLOCK_W"), found.size, strict=True))
    blocks = {"BLOCK_N": tile.block_n, "BLOCK_K": tile.block_k}
    return size | blocks | {"num_warps": tile.warps, "num_stages": tile.stages}
