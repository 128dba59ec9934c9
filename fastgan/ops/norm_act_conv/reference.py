"""norm_act_conv in plain PyTorch: y = act_out(conv(act(norm(x))) + bias), and its gradients.

norm is by the statistics of x per (segment, channel) (`training`), by given mean and var, or, where
those are None, absent. Everything is computed in float32 (float64 for float64).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.ops.conv.geometry import aten_arguments
from fastgan.ops.conv_block.reference import stored_channels_last
from fastgan.ops.core.activation import act, d_act, d_act_from_output
from fastgan.ops.core.memory_format import dense_like, is_channels_last
from fastgan.ops.norm_act import reference as norm_act
from fastgan.ops.norm_act.reference import wide
from fastgan.ops.norm_act_conv.arguments import Backward, Forward


def forward(a: Forward) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    """(y, mean, var, z): y in x's dtype, channels-last where x is; mean and var those of x in
    training; z = act(norm(x)).
    """
    x, spec = a.x, a.spec
    z, mean, var = _normalise(a, spec.training)
    geometry = aten_arguments(*spec.geometry)
    y = torch.ops.aten.convolution(z, wide(a.weight), a.bias, *geometry)
    y = act(y, *spec.after)
    y = stored_channels_last(y, x) if is_channels_last(x) else y.to(x.dtype).contiguous()
    return y, mean, var, dense_like(z, x)


def backward(a: Backward) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of (x, weight, bias, gamma, beta), the last two empty without a norm."""
    x, weight, spec = a.x, a.weight, a.spec
    dy = wide(a.g_y)
    if a.y is not None:
        dy = dy * d_act_from_output(wide(a.y), *spec.after)
    z, *_ = _normalise(a, False)
    need_dz, geometry = a.need_x or a.need_affine, aten_arguments(*spec.geometry)
    dz, g_weight, _ = torch.ops.aten.convolution_backward(
        dy, z, wide(weight), None, *geometry, [need_dz, a.need_weight, False]
    )
    sums = dy.new_empty(0)
    g_x, g_gamma, g_beta = x.new_empty(0), sums, sums.clone()
    mean, var, gamma, beta = a.norm
    if mean is not None and var is not None and need_dz:
        g_x, g_gamma, g_beta = norm_act.norm_act_backward(
            dz, wide(x), mean, var, gamma, beta, *spec.norm, spec.training, a.need_x, a.need_affine
        )
    elif a.need_x:
        g_x = dz * d_act(wide(x), *spec.before)
    return (
        dense_like(g_x, x) if a.need_x else x.new_empty(0),
        dense_like(g_weight, weight) if a.need_weight else x.new_empty(0),
        dy.sum([0, *range(2, dy.dim())]) if a.need_bias else dy.new_empty(0),
        g_gamma,
        g_beta,
    )


def _normalise(
    a: Forward | Backward, training: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """(z, mean, var), the latter of x itself in training."""
    mean, var, gamma, beta = a.norm
    spec, x = a.spec, wide(a.x)
    if training:
        return norm_act.norm_act_train(x, gamma, beta, *spec.norm)
    if mean is None or var is None:
        return act(x, *spec.before), None, None
    return norm_act.norm_act_eval(x, mean, var, gamma, beta, *spec.norm), None, None
