"""Where the taps of a convolution fall, and the shapes that follow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from fastgan.ops.core.tensors import check_flag, whole


class Geometry(NamedTuple):
    """The arguments of a convolution, one entry for each spatial dimension."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]  # transposed alone; zeros otherwise
    transposed: bool


def make_geometry(
    x_shape: tuple[int, ...],
    stride: tuple[int, ...] | int,
    padding: tuple[int, ...] | int,
    output_padding: tuple[int, ...] | int,
    transposed: bool,
) -> Geometry:
    """The geometry of a call, one number standing for all dimensions; ValueError if it is none."""
    dims = len(x_shape) - 2
    if dims < 1:
        raise ValueError(f"x: expected 1 to 3 spatial dimensions, got shape {tuple(x_shape)}")

    check_flag("transposed", transposed)

    def each(name: str, value: tuple[int, ...] | int, least: int) -> tuple[int, ...]:
        if not isinstance(value, (tuple, list)):
            return (whole(name, value, least, MAX_VALUE),) * dims
        if len(value) != dims and len(value) != 1:
            raise ValueError(f"{name}: expected {dims} numbers or one, got {value}")
        values = tuple(whole(name, v, least, MAX_VALUE) for v in value)
        return values if len(values) == dims else values * dims

    geometry = Geometry(
        each("stride", stride, 1),
        each("padding", padding, 0),
        each("output_padding", output_padding, 0),
        transposed,
    )
    if any(p >= s for p, s in zip(geometry.output_padding, geometry.stride, strict=True)):
        raise ValueError(f"output_padding: expected less than stride {stride}: {output_padding}")
    if any(geometry.output_padding) and not transposed:
        raise ValueError(f"output_padding: {output_padding} is of transposed convolutions only")
    return geometry


def output_shape(
    x_shape: tuple[int, ...], weight_shape: tuple[int, ...], geometry: Geometry
) -> tuple[int, ...]:
    """The shape of y. ValueError where the channels do not match or a size is not positive."""
    x_shape, weight_shape = tuple(x_shape), tuple(weight_shape)
    own, other = (0, 1) if geometry.transposed else (1, 0)
    order = "(C_in, C_out, *k)" if geometry.transposed else "(C_out, C_in, *k)"
    if len(weight_shape) != len(x_shape):
        raise ValueError(
            f"weight: expected {order} for x of shape {x_shape}, got shape {weight_shape}"
        )
    if weight_shape[own] != x_shape[1]:
        raise ValueError(
            f"x: expected {weight_shape[own]} channels, as weight {order} of shape {weight_shape} "
            f"takes, got shape {x_shape}"
        )
    sizes = []
    for d, (size, k) in enumerate(zip(x_shape[2:], weight_shape[2:], strict=True)):
        stride, padding = geometry.stride[d], geometry.padding[d]
        if geometry.transposed:
            size = (size - 1) * stride - 2 * padding + k + geometry.output_padding[d]
        else:
            size = (size + 2 * padding - k) // stride + 1
        sizes.append(size)
    if any(size < 1 for size in sizes):
        raise ValueError(
            f"x: shape {x_shape} is too small for a kernel of {weight_shape[2:]}, stride "
            f"{geometry.stride} and padding {geometry.padding}: the output would be {tuple(sizes)}"
        )
    return (x_shape[0], weight_shape[other], *sizes)


def check_size(shape: tuple[int, ...]) -> None:
    """ValueError for an output that no memory holds: an absurd padding or stride asks for one.

    Of a traced call the sizes are not known.
    """
    if all(type(size) is int for size in shape) and not torch.compiler.is_compiling():
        values = math.prod(shape)
        if values > MAX_VALUES:
            raise ValueError(
                f"stride, padding: the output would have shape {shape}, more than {MAX_VALUES} "
                "values"
            )


MAX_VALUES = 1 << 40
MAX_VALUE = (1 << 31) - 1  # of a stride or a padding: as oneDNN and cuDNN take them


def aten_arguments(
    stride: Sequence[int], padding: Sequence[int], output_padding: Sequence[int], transposed: bool
) -> tuple[Any, ...]:
    """A geometry as ATen's stride, padding, dilation, transposed, output_padding and groups."""
    return stride, padding, (1,) * len(stride), transposed, output_padding, 1


def as_2d(geometry: Geometry) -> Geometry:
    """One dimension as two with a height of 1, for which ATen knows channels-last."""
    stride, padding, output_padding, transposed = geometry
    return Geometry((1, *stride), (0, *padding), (0, *output_padding), transposed)
