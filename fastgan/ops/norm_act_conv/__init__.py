"""norm_act_conv: the norm and activation that a tensor waits for, then a convolution, as one op."""

from __future__ import annotations

import functools

from torch import Tensor

from fastgan.ops.conv.geometry import check_size, make_geometry, output_shape
from fastgan.ops.core.dispatch import in_torch, is_eager, setting
from fastgan.ops.core.memory_format import channels_last, dense
from fastgan.ops.core.tensors import (
    activation_code,
    autocast_dtype,
    check_apart,
    check_flag,
    check_input,
    check_weight,
    convolution_bias,
    count_per_channel,
    kind,
    norm_scalars,
    parameter,
    running_pair,
)
from fastgan.ops.norm_act import copy_back_running_stats
from fastgan.ops.norm_act.arguments import NormTensors
from fastgan.ops.norm_act.autograd import settle_for
from fastgan.ops.norm_act_conv import aten
from fastgan.ops.norm_act_conv.arguments import Norm, Spec
from fastgan.ops.norm_act_conv.autograd import run
from fastgan.ops.norm_act_conv.fused import Companions, Statistics
from fastgan.ops.norm_act_conv.repeated import Repeated, kind_of


def norm_act_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    norm: Norm | None = None,
    *,
    pre_activation: str = "identity",
    pre_slope: float = 0.01,
    stride: tuple[int, ...] | int = 1,
    padding: tuple[int, ...] | int = 0,
    output_padding: tuple[int, ...] | int = 0,
    transposed: bool = False,
    activation: str = "identity",
    negative_slope: float = 0.01,
    keep_z: bool = False,
) -> Tensor:
    """`act(conv(pre_act(batch_norm(x))) + bias)` in one op.

    Shapes: x (N, C_in, *spatial) with 1 to 3 spatial dimensions; weight (C_out, C_in, *kernel), or
    (C_in, C_out, *kernel) with `transposed`; bias (C_out,). Returns y (N, C_out, *spatial') in x's
    dtype, channels-last where x is and contiguous otherwise. Dilation and groups are 1; the padding
    is zero after norm and activation.
    dtypes: as norm_act's; weight and bias are converted to x's. Under autocast x is converted to
    its dtype.

    Args:
        norm: absent (None), or as the arguments of `norm_act`, which it equals: in training by the
            statistics of x itself (which then move the running ones), else by the running
            statistics.
        pre_activation, pre_slope, activation, negative_slope: as norm_act's.

    Differentiable to any order in x, weight, bias and the norm's weight and bias. It saves x (and
    y, where `activation` is not the identity, which may not be changed in place then: see
    `bias_act`): the input z of the convolution is computed again in backward, or saved as well with
    `keep_z`. Only the gradients asked for are computed. Under
    `create_graph` the backward is a composition of differentiable ops.

    Errors: TypeError, ValueError for a wrong dtype, shape, geometry or activation, and as of
    norm_act; RuntimeError if the backend asked for cannot run.
    """
    return with_statistics(
        x, weight, bias, norm, pre_activation=pre_activation, pre_slope=pre_slope, stride=stride,
        padding=padding, output_padding=output_padding, transposed=transposed,
        activation=activation, negative_slope=negative_slope, keep_z=keep_z,
    )[0]  # fmt: skip


def with_statistics(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm: Norm | None,
    companions: Companions | None = None,
    earlier: Repeated | None = None,
    *,
    pre_activation: str,
    pre_slope: float,
    stride: tuple[int, ...] | int,
    padding: tuple[int, ...] | int,
    output_padding: tuple[int, ...] | int,
    transposed: bool,
    activation: str,
    negative_slope: float,
    keep_z: bool,
) -> tuple[Tensor, Statistics | None, Repeated | None]:
    """`norm_act_conv`, the statistics of y that companions ask for, and what makes the call again
    with other tensors alike, where it ran by companions' kernels.

    Args:
        companions: unless None, the kernels for GPUs with TMA run, where the call is a plain eager
            one (see `fused`): of it `of_x` and `segments` are read. They give those of the
            statistics that their convolution takes. Gradients are the same.
        earlier: what an earlier call gave: its plan serves where this one is alike.
    """
    check_input(x)
    check_weight(weight, x)
    check_flag("keep_z", keep_z)
    if norm is None:
        norm = NO_NORM
    elif not isinstance(norm, Norm):
        raise TypeError(f"norm: expected a Norm or None, got {kind(norm)}")
    running_mean, running_var, gamma, beta, training, momentum, eps, segments, average = norm
    eager = is_eager(x, weight, bias, running_mean, running_var, gamma, beta)
    settings = (
        x.shape, weight.shape, stride, padding, output_padding, transposed, pre_activation,
        pre_slope, activation, negative_slope, training, momentum, eps, segments, average,
    )  # fmt: skip
    try:
        channels, momentum, count, spec = (_known if eager else _checked)(*settings)
    except TypeError:  # of the cache, where one has no hash: the check says which it is
        channels, momentum, count, spec = _checked(*settings)
    given = x, bias, gamma, beta, running_mean, running_var
    x = x.to(autocast_dtype(x))
    x = dense(x) if companions is None else channels_last(x)
    bias = convolution_bias(bias, channels, x)
    running = running_pair(x, running_mean, running_var)
    known: tuple[Tensor | None, Tensor | None] = (None, None)
    statistics, alike = None, None
    if not training and running is not None:
        settle_for(running[0])
        known = running[0].reshape(1, -1), running[1].reshape(1, -1)
    elif not training and norm is not NO_NORM:
        raise ValueError("norm: evaluation needs running_mean and running_var")
    affine = parameter("norm.weight", gamma, x), parameter("norm.bias", beta, x)
    moves = running if training and count else None
    if moves is not None and eager:
        check_apart(x, running_mean, running_var, gamma, beta)
    norms = NormTensors(*known, *affine)
    if companions is not None and eager:
        of_x, wanted = companions.of_x, companions.segments
        of_norm = None if norm is NO_NORM else norm
        of_kind = kind_of(given[0], weight, given[1], of_norm, of_x, wanted)
        alike = earlier
        if alike is None or alike.kind != of_kind:
            alike = Repeated(
                spec, keep_z, setting(), wanted, (x, weight, bias, *affine), momentum, count,
                average,
            )  # fmt: skip
            taken = bias, *affine, *(running or (None, None))
            alike.converts = any(a is not b for a, b in zip(given[1:], taken, strict=True))
            alike.kind, alike.converts_x = of_kind, x is not given[0]
        y, statistics = alike(x, weight, bias, norms, moves, of_x)
    elif eager and x.numel() and in_torch(setting(), x.device.type):
        pair = moves if training else running
        y = aten.norm_act_conv(x, weight, bias, pair, affine, spec, momentum, average)
    else:
        y = run(x, weight, bias, norms, spec, keep_z, moves, (momentum, count, average), eager)
    if moves is not None:
        copy_back_running_stats((running_mean, running_var), moves)
    return y, statistics, alike


def _checked(
    x_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    stride: tuple[int, ...] | int,
    padding: tuple[int, ...] | int,
    output_padding: tuple[int, ...] | int,
    transposed: bool,
    pre_activation: str,
    pre_slope: float,
    activation: str,
    negative_slope: float,
    training: bool,
    momentum: float,
    eps: float,
    segments: int,
    average: bool,
) -> tuple[int, float, int, Spec]:
    """(channels of y, momentum, values of a statistic in training, the rest of the settings)."""
    geometry = make_geometry(x_shape, stride, padding, output_padding, transposed)
    shape = output_shape(x_shape, weight_shape, geometry)
    check_size(shape)
    momentum, eps, segments = norm_scalars(training, momentum, eps, segments, average, "norm.")
    count = count_per_channel("x", tuple(x_shape), segments) if training else 0
    before = activation_code(pre_activation, pre_slope, ("pre_activation", "pre_slope"))
    spec = Spec(
        eps, *before, training, segments if training else 1, geometry,
        *activation_code(activation, negative_slope),
    )  # fmt: skip
    return shape[1], momentum, count, spec


# A layer gives the same settings and shapes at each call; 1 and True are not the same.
_known = functools.lru_cache(maxsize=1024, typed=True)(_checked)

NO_NORM = Norm(training=False)
