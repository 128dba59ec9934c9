"""conv_block: a convolution that applies the previous block's norm and activation as it loads."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastgan.ops.conv.geometry import check_size, make_geometry, output_shape
from fastgan.ops.conv_block.arguments import Forward, Spec
from fastgan.ops.conv_block.autograd import FORWARD, backend_of
from fastgan.ops.core import dispatch
from fastgan.ops.core.memory_format import channels_last
from fastgan.ops.core.tensors import (
    activation_code,
    autocast_dtype,
    check_device,
    check_input,
    check_tensor,
    check_weight,
    convolution_bias,
    count_per_channel,
    kind,
    parameter,
    real,
    stat_dtype,
    whole,
)
from fastgan.ops.norm_act.arguments import NormTensors


class Deferred(NamedTuple):
    """The normalisation and activation that a raw convolution output still waits for.

    Attributes:
        mean, var: (S, C) float32, of S equal slices of the batch; var is biased. Both None: there
            is no normalisation, only the activation.
        weight, bias: (C,) or None.
        activation, negative_slope: as norm_act's.
    """

    mean: Tensor | None = None
    var: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    eps: float = 1e-5
    activation: str = "identity"
    negative_slope: float = 0.01


def conv_block(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    deferred: Deferred | None = None,
    *,
    stride: tuple[int, ...] | int = 1,
    padding: tuple[int, ...] | int = 0,
    output_padding: tuple[int, ...] | int = 0,
    transposed: bool = False,
    activation: str = "identity",
    negative_slope: float = 0.01,
    segments: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """`y = act(conv(deferred(x)) + bias)` and the statistics of y, in one op.

    Shapes: x (N, C_in, *spatial) with 1 to 3 spatial dimensions; weight (C_out, C_in, *kernel), or
    (C_in, C_out, *kernel) with `transposed`; bias (C_out,). Returns (y, mean, var): y (N, C_out,
    *spatial') channels-last in x's dtype; mean and biased var (segments, C_out) of y as stored, for
    the `Deferred` of the next block; empty with `segments=0`.
    dtypes: x float32, bfloat16, float16 or float64; weight is converted to x's (in Triton's kernels
    as they pack it: see `packed_weights`); under autocast both are converted to its dtype. bias,
    norm parameters and statistics float32 (float64 with x).

    The padding is zero after the deferred norm and activation. Dilation and groups are 1.
    Differentiable to any order in x, weight, bias and every tensor of `deferred`, mean and var
    included: the gradient of x is whole once that of mean and var has come back to the block that
    made them. It saves x and y alone, and y only where an activation or statistics follow (it may
    not be changed in place then: see `bias_act`); only the gradients asked for are computed.

    Backends: triton (implicit GEMM) and reference. Errors: TypeError, ValueError naming the
    argument, also for statistics of one value; RuntimeError for another backend asked for.

    Source: the transposed convolution's sub-pixel form, Shi et al. 2016, arXiv:1609.07009; the
    statistics' merging, Chan, Golub and LeVeque 1979.
    """
    check_input(x)
    check_weight(weight, x)
    geometry = make_geometry(x.shape, stride, padding, output_padding, transposed)
    x = x.to(autocast_dtype(x))
    shape = output_shape(x.shape, weight.shape, geometry)
    check_size(shape)
    segments = whole("segments", segments, 0)
    if segments:
        count_per_channel("y", shape, segments)
    norm, eps, before = _norm_arguments(x, NOTHING if deferred is None else deferred)
    bias = convolution_bias(bias, shape[1], x)
    after = activation_code(activation, negative_slope)
    spec = Spec(eps, *before, geometry, *after, segments)
    a = Forward(channels_last(x), _operand(weight, x), bias, norm, spec)
    y, mean, var = FORWARD(a, dispatch.setting())
    return y, mean, var


NOTHING = Deferred()


def _operand(weight: Tensor, x: Tensor) -> Tensor:
    """weight in x's dtype; a float32 one as it is where Triton rounds it while packing it anyway,
    so that its packed copies can be kept, and its gradient need not be rounded.
    """
    rounded = weight.dtype is torch.float32 and x.dtype in (torch.bfloat16, torch.float16)
    eager = rounded and dispatch.is_eager(x, weight)
    if eager and backend_of(x, dispatch.setting()) == "triton":
        return weight
    return weight.to(x.dtype)


def _norm_arguments(x: Tensor, deferred: Deferred) -> tuple[NormTensors, float, tuple[int, float]]:
    """Tensors, eps and (activation code, slope), checked, as the kernels take them."""
    if not isinstance(deferred, Deferred):
        raise TypeError(f"deferred: expected a Deferred or None, got {kind(deferred)}")
    mean, var, eps = deferred.mean, deferred.var, real("deferred.eps", deferred.eps)
    if eps < 0:
        raise ValueError(f"deferred.eps: expected at least 0, got {eps}")
    if (mean is None) != (var is None):
        raise ValueError("deferred: give both mean and var, or neither")
    if mean is None and not (deferred.weight is None and deferred.bias is None):
        raise ValueError("deferred: weight and bias need mean and var")
    for name, rows in (("mean", mean), ("var", var)):
        if rows is None:
            continue
        check_tensor(f"deferred.{name}", rows, "a Tensor or None")
        check_device(f"deferred.{name}", rows, x)
        if rows.dtype is not stat_dtype(x):
            raise TypeError(f"deferred.{name}: expected {stat_dtype(x)}, got {rows.dtype}")
        fits = rows.dim() == 2 and rows.shape[1] == x.shape[1]
        if not fits or rows.shape[0] < 1 or x.shape[0] % rows.shape[0]:
            wanted = f"(S, {x.shape[1]}) with S a divisor of the batch of {x.shape[0]}"
            raise ValueError(f"deferred.{name}: expected shape {wanted}, got {tuple(rows.shape)}")
        if mean is not None and rows.shape != mean.shape:
            shapes = f"{tuple(mean.shape)} as mean's, got {tuple(rows.shape)}"
            raise ValueError(f"deferred.{name}: expected shape {shapes}")
    affine = (
        parameter("deferred.weight", deferred.weight, x),
        parameter("deferred.bias", deferred.bias, x),
    )
    names = "deferred.activation", "deferred.negative_slope"
    code = activation_code(deferred.activation, deferred.negative_slope, names)
    return NormTensors(mean, var, *affine), eps, code
