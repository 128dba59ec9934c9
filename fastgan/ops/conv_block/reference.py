"""conv_block in plain PyTorch, under the names and arguments of the raw kernels.

y = act_out(conv(act_pre(norm(x))) + bias): norm takes given statistics, (S, C) for S equal slices
of the batch, and the statistics of y as stored come back for the norm of the block that follows.
Everything is computed in float32 (float64 for float64).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastgan.ops.conv.geometry import aten_arguments
from fastgan.ops.core.activation import act, d_act, d_act_from_output
from fastgan.ops.core.memory_format import channels_last
from fastgan.ops.norm_act.reference import (
    moments,
    per_channel,
    per_segment,
    split,
    stored_like,
    wide,
)

_OVER = (1, 3)

# From z, dy, weight, the geometry and whether each is needed, the gradients of z and of the weight.
Gradients = Callable[..., tuple[Tensor | None, Tensor | None]]


def conv_block_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
    pre_activation: int,
    pre_slope: float,
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    transposed: bool,
    activation: int,
    slope: float,
    segments: int,
) -> tuple[Tensor, Tensor, Tensor]:
    u, _, _ = _normalised(x, mean, var, gamma, beta, eps)
    z = act(u, pre_activation, pre_slope)
    geometry = aten_arguments(stride, padding, output_padding, transposed)
    with torch.autocast(x.device.type, enabled=False):
        y = torch.ops.aten.convolution(z, wide(weight), bias, *geometry)
    stored = stored_channels_last(act(y, activation, slope), x)
    if not segments:
        return stored, x.new_empty(0, dtype=y.dtype), x.new_empty(0, dtype=y.dtype)
    return stored, *moments(split(stored, segments))


def conv_block_backward(
    g_y: Tensor,
    g_mean: Tensor | None,
    g_var: Tensor | None,
    x: Tensor,
    y: Tensor,
    y_mean: Tensor,
    weight: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
    pre_activation: int,
    pre_slope: float,
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    transposed: bool,
    activation: int,
    slope: float,
    segments: int,
    need_x: bool,
    need_weight: bool,
    need_bias: bool,
    *,
    gradients: Gradients | None = None,
) -> tuple[Tensor, ...]:
    """(g_x, g_weight, g_bias, g_mean, g_var, g_gamma, g_beta); what is not needed comes empty.

    With `gradients`, those of the convolution come from there: it, and so all of this, may then be
    differentiable. g_x does not hold what flows through mean and var, which may depend on x.
    """
    dy = _output_gradient(g_y, g_mean, g_var, y, y_mean, activation, slope, segments)
    u, x_hat, rstd = _normalised(x, mean, var, gamma, beta, eps)
    z = act(u, pre_activation, pre_slope)
    geometry = (stride, padding, output_padding, transposed)
    d_z, d_weight = (gradients or _aten_gradients)(z, dy, weight, *geometry, need_x, need_weight)
    empty = x.new_empty(0, dtype=dy.dtype)
    g_x, g_mean_in, g_var_in, g_gamma, g_beta = x.new_empty(0), empty, empty, empty, empty
    if d_z is not None:
        a = wide(d_z) * d_act(u, pre_activation, pre_slope)
        if x_hat is None or rstd is None:
            g_x = a
        else:
            a = split(a, x_hat.shape[0])
            sum_a, sum_ax = a.sum(_OVER), (a * x_hat).sum(_OVER)
            scale = per_channel(gamma, 1.0, a) * rstd
            g_x = (a * scale).reshape(x.shape)
            scale, r = scale[:, 0, :, 0], rstd[:, 0, :, 0]
            g_mean_in, g_var_in = -scale * sum_a, -0.5 * scale * r * sum_ax
            g_gamma, g_beta = sum_ax.sum(0), sum_a.sum(0)
        g_x = stored_like(g_x, x)
    g_weight = x.new_empty(0) if d_weight is None else stored_like(d_weight, weight)
    g_bias = dy.sum([0, *range(2, dy.dim())]) if need_bias else empty
    return g_x, g_weight, g_bias, g_mean_in, g_var_in, g_gamma, g_beta


def channels_last_empty(like: Tensor, shape: list[int]) -> Tensor:
    """Channels innermost in memory, for any number of spatial dimensions."""
    n, channels, *spatial = shape
    return like.new_empty((n, *spatial, channels)).movedim(-1, 1)


def stored_channels_last(value: Tensor, like: Tensor) -> Tensor:
    """`value` in the dtype of `like`, channels innermost in memory; differentiable."""
    if torch._C._are_functorch_transforms_active():  # vmap writes into no tensor but batched ones
        return channels_last(value.to(like.dtype))
    return channels_last_empty(like, list(value.shape)).copy_(value)


def _output_gradient(
    g_y: Tensor,
    g_mean: Tensor | None,
    g_var: Tensor | None,
    y: Tensor,
    y_mean: Tensor,
    activation: int,
    slope: float,
    segments: int,
) -> Tensor:
    """The gradient of conv + bias: through y, its mean and its variance, then the activation."""
    total = wide(g_y)
    if segments and y.numel():
        source = split(y, segments)
        n = source.shape[1] * source.shape[3]
        through = torch.zeros_like(source)
        if g_mean is not None:
            through = through + per_segment(g_mean) / n
        if g_var is not None:
            centred = source - per_segment(y_mean)
            through = through + per_segment(g_var) * (2 / n) * centred
        total = total + through.reshape(total.shape)
    return total * d_act_from_output(wide(y), activation, slope)


def _normalised(
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """(u of x's shape, x^ and rstd split by segment); the latter None without normalisation."""
    if mean is None or var is None:
        return wide(x), None, None
    source = split(x, mean.shape[0])
    rstd = per_segment(torch.rsqrt(var + eps))
    x_hat = (source - per_segment(mean)) * rstd
    u = x_hat * per_channel(gamma, 1.0, source) + per_channel(beta, 0.0, source)
    return u.reshape(x.shape), x_hat, rstd


def _aten_gradients(
    z: Tensor,
    dy: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    transposed: bool,
    need_input: bool,
    need_weight: bool,
) -> tuple[Tensor | None, Tensor | None]:
    if not (need_input or need_weight):
        return None, None
    geometry = aten_arguments(stride, padding, output_padding, transposed)
    with torch.autocast(z.device.type, enabled=False):
        dz, dweight, _ = torch.ops.aten.convolution_backward(
            dy, z, wide(weight), None, *geometry, [need_input, need_weight, False]
        )
    return dz, dweight
