"""norm_act in plain PyTorch, under the names and arguments of the raw kernels.

Tensors are viewed as (segments, batch of a segment, channels, spatial); statistics are per
(segment, channel), over axes 1 and 3. Everything is computed in float32 (float64 for float64).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastgan.ops.core.activation import act, d_act
from fastgan.ops.core.dispatch import in_plain_export
from fastgan.ops.core.memory_format import dense_like

_OVER = (1, 3)


def wide(t: Tensor) -> Tensor:
    return t if t.dtype is torch.float64 else t.float()


def split(x: Tensor, segments: int) -> Tensor:
    shape = (segments, x.shape[0] // segments, x.shape[1], math.prod(x.shape[2:]))
    return wide(x).reshape(shape)


def per_channel(p: Tensor | None, default: float, like: Tensor) -> Tensor:
    if p is None:
        return torch.full((1, 1, 1, 1), default, dtype=like.dtype, device=like.device)
    return p.to(like.dtype).reshape(1, 1, -1, 1)


def per_segment(s: Tensor) -> Tensor:
    return s[:, None, :, None]


def stored_like(value: Tensor, like: Tensor) -> Tensor:
    """`value` in the dtype and memory layout of `like`, which is dense; differentiable."""
    if torch._C._are_functorch_transforms_active():  # vmap writes into no tensor but batched ones
        return dense_like(value, like)
    if in_plain_export():  # which knows no layouts
        return value.to(like.dtype)
    return torch.empty_like(like).copy_(value)


def moments(u: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per (segment, channel) of a split tensor; zero where it is empty.

    The mean of the deviations corrects the rounding of the first, long sum.
    """
    if u.numel() == 0:
        zeros = u.new_zeros(u.shape[0], u.shape[2])
        return zeros, zeros.clone()
    mean = u.mean(_OVER, True)
    # Exactly zero but for rounding, and so is its derivative; NaN where the mean is infinite.
    mean = mean + (u - mean).detach().mean(_OVER, True).nan_to_num(0.0, 0.0, 0.0)
    return mean[:, 0, :, 0], (u - mean).square().mean(_OVER)


def norm_act_eval(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: int,
    negative_slope: float,
    segments: int,
    act_first: bool,
) -> Tensor:
    u = split(x, segments)
    if act_first:
        u = act(u, activation, negative_slope)
    normed = (u - per_segment(mean)) * per_segment(torch.rsqrt(var + eps))
    z = normed * per_channel(weight, 1.0, u) + per_channel(bias, 0.0, u)
    if not act_first:
        z = act(z, activation, negative_slope)
    return stored_like(z.reshape(x.shape), x)


def norm_act_train(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: int,
    negative_slope: float,
    segments: int,
    act_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    u = split(x, segments)
    if act_first:
        u = act(u, activation, negative_slope)
    mean, var = moments(u)
    spec = (eps, activation, negative_slope, segments, act_first)
    return norm_act_eval(x, mean, var, weight, bias, *spec), mean, var


def norm_act_backward(
    dz: Tensor,
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: int,
    negative_slope: float,
    segments: int,
    act_first: bool,
    training: bool,
    need_dx: bool,
    need_dparams: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    source, a = split(x, segments), split(dz, segments)
    u = act(source, activation, negative_slope) if act_first else source
    gamma = per_channel(weight, 1.0, u)
    rstd = per_segment(torch.rsqrt(var + eps))
    x_hat = (u - per_segment(mean)) * rstd
    if not act_first:
        y = x_hat * gamma + per_channel(bias, 0.0, u)
        a = a * d_act(y, activation, negative_slope)
    dx, dweight, dbias = x.new_empty(0), mean.new_empty(0), mean.new_empty(0)
    if need_dparams:
        dweight, dbias = (a * x_hat).sum((0, *_OVER)), a.sum((0, *_OVER))
    if need_dx:
        if training and a.numel():
            a = a - a.mean(_OVER, True) - x_hat * (a * x_hat).mean(_OVER, True)
        du = a * gamma * rstd
        if act_first:
            du = du * d_act(source, activation, negative_slope)
        dx = stored_like(du.reshape(x.shape), x)
    return dx, dweight, dbias


def update_running_stats_(
    running_mean: Tensor,
    running_var: Tensor,
    mean: Tensor,
    var: Tensor,
    momentum: float,
    count: int,
    average: bool,
) -> None:
    unbiased = var * (count / (count - 1))
    for running, batch in ((running_mean, mean), (running_var, unbiased)):
        for value in [batch.mean(0)] if average else batch.unbind(0):
            running.mul_(1 - momentum).add_(value, alpha=momentum)
