"""Raw convolutions, ordinary and transposed, without autograd: forward and both gradients.

Groups and dilation are 1. Weights have torch.nn's layout: (C_out, C_in, *k), transposed
(C_in, C_out, *k), with any strides. Arithmetic is ATen's (oneDNN, cuDNN), or that of fastgan's own
kernels where one side is an image of few channels (_thin), minimal filtering (_winograd), dot
products of bfloat16 (_dot), or matrix products (_lowered).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastgan.ops import _dispatch, _dot, _lowered, _thin, _winograd
from fastgan.ops._tensors import CHANNELS_LAST, dense_like, is_channels_last
from fastgan.ops.reference.activation import is_identity

# In this order: the first that runs a pass does it, after _thin and before ATen.
_OWN = {"minimal filtering": _winograd, "dot products": _dot, "matrix products": _lowered}


class Geometry(NamedTuple):
    """Where the taps of a convolution fall, one entry for each spatial dimension."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]  # transposed alone; zeros otherwise
    transposed: bool


def make_geometry(
    x: Tensor,
    stride: tuple[int, ...] | int,
    padding: tuple[int, ...] | int,
    output_padding: tuple[int, ...] | int,
    transposed: bool,
) -> Geometry:
    """The geometry of a call, one number standing for all dimensions; ValueError if it is none."""
    dims = x.dim() - 2
    if dims < 1:
        raise ValueError(f"x: expected 1 to 3 spatial dimensions, got shape {tuple(x.shape)}")

    def each(name: str, value: tuple[int, ...] | int, least: int) -> tuple[int, ...]:
        values = (value,) * dims if isinstance(value, int) else tuple(value)
        if len(values) != dims or any(v < least for v in values):
            raise ValueError(f"{name}: expected {dims} numbers of at least {least}, got {value}")
        return values

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
    if len(weight_shape) != len(x_shape) or weight_shape[own] != x_shape[1]:
        order = "(C_in, C_out, *k)" if geometry.transposed else "(C_out, C_in, *k)"
        raise ValueError(
            f"weight: expected {order} for x of shape {x_shape}, got shape {weight_shape}"
        )
    sizes = []
    for d, (size, k) in enumerate(zip(x_shape[2:], weight_shape[2:], strict=True)):
        stride, padding = geometry.stride[d], geometry.padding[d]
        if geometry.transposed:
            size = (size - 1) * stride - 2 * padding + k + geometry.output_padding[d]
        else:
            size = (size + 2 * padding - k) // stride + 1
        sizes.append(size)
    if min(sizes, default=1) < 1:
        raise ValueError(
            f"x: shape {x_shape} is too small for a kernel of {weight_shape[2:]}, stride "
            f"{geometry.stride} and padding {geometry.padding}: the output would be {tuple(sizes)}"
        )
    return (x_shape[0], weight_shape[other], *sizes)


def own_kernels_pay(
    x: Tensor, weight_shape: tuple[int, ...], geometry: Geometry, activated: bool
) -> bool:
    """Whether a training pass is faster here than by ATen's convolution under its own autograd.

    Of x only shape, dtype, layout, device and requires_grad are read. activated: an activation
    follows. By measurement on a CPU with AVX-512, the calls' own time included: layers to an image
    take 0.3 to 0.7 of ATen's time, but large contiguous ones, which are copied, up to 1.6; layers
    from an image 0.3 to 0.8 where its gradient is asked for, else 0.7 to 1.2; layers from or to one
    position 0.7 to 1.0 with gradients, and 1.2 to 1.5 without. With minimal filtering
    a whole DCGAN generator of width 32 trains 1.2 to 1.4 times as fast in channels-last memory.
    """
    if x.dim() == 3:
        x, geometry = x.unsqueeze(2), _geometry_2d(geometry)
        weight_shape = (*weight_shape[:2], 1, *weight_shape[2:])
    size = output_shape(x.shape, weight_shape, geometry)[2:]
    positions = x.shape[2:] if geometry.transposed else size
    operations = 2 * x.shape[0] * math.prod(positions) * math.prod(weight_shape)
    if operations < _LEAST_OPERATIONS:
        return False
    weight = torch.empty(weight_shape, dtype=x.dtype, device="meta")
    if _thin.runs_forward(x, weight, geometry, activated):
        if x.shape[1] <= _thin.MOST_CHANNELS:
            return x.requires_grad and torch.is_grad_enabled()
        return is_channels_last(x) or operations < _MOST_OPERATIONS_CONTIGUOUS
    if _winograd.runs(x, size, weight, geometry):
        return True
    one_position = max(positions) == 1 and _lowered.runs(x, size, weight, geometry)
    return one_position and torch.is_grad_enabled()


_LEAST_OPERATIONS = 1 << 22  # of a forward pass
_MOST_OPERATIONS_CONTIGUOUS = 1 << 26


class Kernels(NamedTuple):
    """What runs each pass of a convolution, in words."""

    forward: str
    input_gradient: str
    weight_gradient: str

    def __str__(self) -> str:
        """In one word, where one kernel runs all three."""
        if len(set(self)) == 1:
            return self.forward
        words = zip(("", "data gradient: ", "weight gradient: "), self, strict=True)
        return "; ".join(of + kernel for of, kernel in words)


def kernels_of(x: Tensor, weight: Tensor, geometry: Geometry, activated: bool) -> Kernels:
    """What `forward`, `backward_input` and `backward_weight` run on tensors like these.

    Of x and weight only shape, dtype, layout and device are read. activated: an activation follows.
    """
    if x.dim() == 3:
        return kernels_of(*_as_2d(x, weight), _geometry_2d(geometry), activated)
    size = output_shape(x.shape, weight.shape, geometry)[2:]
    found = []
    thin = _thin.runs_forward(x, weight, geometry, activated)
    for i, direct in enumerate((thin, *_thin.runs_backward(x, weight, geometry))):
        own = (k for k, v in _OWN.items() if v.runs(x, size, weight, geometry, of_weight=i == 2))
        found.append("direct" if direct else next(own, "") or library(x, weight, geometry))
    return Kernels(*found)


def library(x: Tensor, weight: Tensor, geometry: Geometry) -> str:
    """Whose convolution ATen runs: "oneDNN", "cuDNN", "MIOpen", or its own, "ATen"."""
    dtype = _lowered.arithmetic(x)
    stride, padding, dilation, transposed, extra, groups = aten_arguments(*geometry)
    chosen = torch._C._select_conv_backend(
        x.to(dtype), weight.to(dtype), None, stride, padding, dilation, transposed, extra, groups,
        None,
    ).name  # fmt: skip
    if x.device.type == "cpu":  # that of transposed convolutions by oneDNN has no name in Python
        return "ATen" if chosen.startswith("Slow") else "oneDNN"
    names = {"Cudnn": "cuDNN", "Miopen": "MIOpen"}
    return next((name for start, name in names.items() if chosen.startswith(start)), "ATen")


def reads_float32(x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether the passes of a half-precision x round a float32 weight themselves.

    It need not be converted then, nor its gradient, which is float32.
    """
    if weight.dtype is not torch.float32 or x.dim() != 4:
        return False
    return _dot.runs(x, output_shape(x.shape, weight.shape, geometry)[2:], weight, geometry)


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    activation: int,
    slope: float,
) -> Tensor:
    """`act(conv(x) + bias)` in x's dtype, channels-last where x is, else contiguous.

    bias float32 (float64 for float64 x) or None. A tensor that is both contiguous and
    channels-last (one channel, or one position) counts as channels-last.
    """
    if x.dim() == 3:
        flat = forward(*_as_2d(x, weight), bias, _geometry_2d(geometry), activation, slope)
        return flat.squeeze(2)
    size = output_shape(x.shape, weight.shape, geometry)[2:]
    thin = _thin.forward(x, weight, bias, geometry, activation, slope, size)
    if thin is not None:
        return thin
    identity = is_identity(activation, slope)
    fused = bias if identity else None
    tried = (own.forward(x, weight, geometry, size) for own in _OWN.values())
    y = next((y for y in tried if y is not None), None)
    if y is None:
        y = _aten_forward(x, weight, fused, geometry)
        bias = None if identity else bias
    y = y.contiguous(memory_format=_format(x))
    if identity and bias is None:
        return y
    kernels = _dispatch.kernels("auto", "bias_act", y)
    activated: Tensor = kernels.bias_act_forward(y, bias, activation, slope)
    return activated


def backward_input(dy: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """The gradient of x; of x itself only shape, dtype and layout are read."""
    if x.dim() == 3:
        flat = backward_input(dy.unsqueeze(2), *_as_2d(x, weight), _geometry_2d(geometry))
        return flat.squeeze(2)
    dx = _thin.backward_input(dy, x, weight, geometry)
    if dx is None:
        tried = (own.backward_input(dy, x, weight, geometry) for own in _OWN.values())
        dx = next((dx for dx in tried if dx is not None), None)
    if dx is None:
        dx = _aten_backward(dy, x, weight, geometry, 0)
    return dense_like(dx, x)


def backward_weight(dy: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """The gradient of weight; of weight itself only shape, dtype and layout are read."""
    if x.dim() == 3:
        x, flat_weight = _as_2d(x, weight)
        flat = backward_weight(dy.unsqueeze(2), x, flat_weight, _geometry_2d(geometry))
        return flat.squeeze(2)
    dweight = _thin.backward_weight(dy, x, weight, geometry)
    if dweight is None:
        tried = (own.backward_weight(dy, x, weight, geometry) for own in _OWN.values())
        dweight = next((found for found in tried if found is not None), None)
    if dweight is None:
        dweight = _aten_backward(dy, x, weight, geometry, 1)
    return dense_like(dweight, weight)


def _aten_forward(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    dtype = _lowered.arithmetic(x)
    x_, weight = x.to(dtype), _laid_out(weight.to(dtype), x)
    bias = None if bias is None else bias.to(dtype)
    return torch.ops.aten.convolution(x_, weight, bias, *aten_arguments(*geometry)).to(x.dtype)


def _aten_backward(dy: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, of: int) -> Tensor:
    """The gradient of x (of = 0) or weight (of = 1), and nothing else."""
    dtype = _lowered.arithmetic(x)
    dy = dy.to(dtype).contiguous(memory_format=_format(x))
    # Of the tensor whose gradient is formed only shape and layout are read.
    x_ = x.to(dtype) if of == 1 else torch.empty_like(x, dtype=dtype)
    weight = torch.empty_like(weight, dtype=dtype) if of == 1 else weight.to(dtype)
    mask = [of == 0, of == 1, False]
    gradients = torch.ops.aten.convolution_backward(
        dy, x_, _laid_out(weight, x), None, *aten_arguments(*geometry), mask
    )
    chosen: Tensor = gradients[of]
    return chosen.to(x.dtype)


def aten_arguments(
    stride: Sequence[int], padding: Sequence[int], output_padding: Sequence[int], transposed: bool
) -> tuple[Any, ...]:
    """A geometry as ATen's stride, padding, dilation, transposed, output_padding and groups."""
    return stride, padding, (1,) * len(stride), transposed, output_padding, 1


def _format(x: Tensor) -> torch.memory_format:
    return CHANNELS_LAST[x.dim()] if is_channels_last(x) else torch.contiguous_format


def _laid_out(weight: Tensor, x: Tensor) -> Tensor:
    """weight as x lies: ATen works in channels-last as soon as one of the two does."""
    return weight.contiguous(memory_format=_format(x))


def _as_2d(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """One dimension as two with a height of 1, for which ATen knows channels-last."""
    return x.unsqueeze(2), weight.unsqueeze(2)


def _geometry_2d(geometry: Geometry) -> Geometry:
    stride, padding, output_padding, transposed = geometry
    return Geometry((1, *stride), (0, *padding), (0, *output_padding), transposed)
