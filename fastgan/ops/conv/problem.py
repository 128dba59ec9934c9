"""What an algorithm for a convolution is chosen by."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fastgan.ops.conv.geometry import Geometry, as_2d, output_shape
from fastgan.ops.core import dispatch, processor
from fastgan.ops.core.memory_format import is_channels_last

FORWARD, DATA_GRADIENT, WEIGHT_GRADIENT = PASSES = "forward", "data gradient", "weight gradient"


class Problem(NamedTuple):
    """One pass of a convolution: all that is known of it before its values.

    A convolution and its transpose are one thing seen from two sides. The *image* is the side that
    the taps move over (x of an ordinary convolution, y of a transposed one); the *map* is the
    strided feature map of the other side: its position q meets q * stride - padding + tap of the
    image. The weight is (channels of the map, channels of the image, *kernel) for both kinds.
    """

    of: str  # one of PASSES
    x: tuple[int, ...]
    y: tuple[int, ...]
    weight: tuple[int, ...]
    geometry: Geometry
    dtype: torch.dtype  # of x and y
    weight_dtype: torch.dtype
    channels_last: bool  # memory of x, in which y and the gradients come, too
    device: str
    activated: bool  # an activation follows
    triton: bool  # its kernels are asked for, by name or as the fused form of a block

    @property
    def dims(self) -> int:
        return len(self.x) - 2

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.weight[2:]

    @property
    def image(self) -> tuple[int, ...]:
        return self.y if self.geometry.transposed else self.x

    @property
    def map(self) -> tuple[int, ...]:
        return self.x if self.geometry.transposed else self.y

    @property
    def operations(self) -> int:
        """Of the plain sum, two a multiply-add."""
        return 2 * self.map[0] * math.prod(self.map[2:]) * math.prod(self.weight)

    @property
    def result(self) -> tuple[int, ...]:
        """The shape of what the pass gives."""
        return {FORWARD: self.y, DATA_GRADIENT: self.x, WEIGHT_GRADIENT: self.weight}[self.of]

    @property
    def arithmetic(self) -> torch.dtype:
        """The dtype to compute in: float32 where that is faster than the tensors' own."""
        return arithmetic(self.dtype, self.device)


def describe(
    of: str,
    x: Tensor,
    weight: Tensor,
    geometry: Geometry,
    activated: bool = False,
    triton: bool = False,
) -> Problem:
    """The problem of tensors like these, of which only shape, dtype, layout and device are read.

    One dimension is taken as two with a height of 1. triton: besides where the backend is Triton's.
    """
    if x.dim() == 3:
        x, weight, geometry = x.unsqueeze(2), weight.unsqueeze(2), as_2d(geometry)
    return Problem(
        of, tuple(x.shape), output_shape(x.shape, weight.shape, geometry), tuple(weight.shape),
        geometry, x.dtype, weight.dtype, is_channels_last(x), x.device.type, activated,
        triton or dispatch.setting() == "triton",
    )  # fmt: skip


def arithmetic(dtype: torch.dtype, device: str) -> torch.dtype:
    """The dtype to convolve tensors of a dtype in: float32 where that is faster."""
    half = dtype in (torch.bfloat16, torch.float16)
    return torch.float32 if half and device == "cpu" and not processor.fast_in(dtype) else dtype
