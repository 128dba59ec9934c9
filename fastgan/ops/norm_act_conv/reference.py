"""norm_act_conv in plain PyTorch: y = act_out(conv(act(norm(x))) + bias), and its gradients.

norm is by the statistics of x per (segment, channel) (`training`), by given mean and var, or, where
those are None, absent. Everything is computed in float32 (float64 for float64).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgan.ops.conv.geometry import Geometry, aten_arguments
from fastgan.ops.conv_block.reference import stored_channels_last
from fastgan.ops.core.activation import act, d_act, d_act_from_output
from fastgan.ops.core.tensors import dense_like, is_channels_last
from fastgan.ops.norm_act import reference as norm_act
from fastgan.ops.norm_act.reference import wide

# eps, activation and slope before the convolution, whether training, segments; the geometry, the
# activation and slope after it.
Spec = tuple[float, int, float, bool, int, Geometry, int, float]


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    *spec: Any,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    """(y, mean, var, z): y in x's dtype, channels-last where x is; z = act(norm(x))."""
    geometry, activation, slope = spec[5:]
    z, mean, var = _normalise(x, mean, var, gamma, beta, *spec[:5])
    y = torch.ops.aten.convolution(z, wide(weight), bias, *aten_arguments(*geometry))
    y = act(y, activation, slope)
    y = stored_channels_last(y, x) if is_channels_last(x) else y.to(x.dtype).contiguous()
    return y, mean, var, dense_like(z, x)


def backward(
    g_y: Tensor,
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    *spec: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of (x, weight, bias, gamma, beta), the last two empty without a norm.

    After the spec comes which of (x, weight, bias, gamma and beta) are asked for.
    """
    eps, code, slope_before, training, segments, geometry, activation, slope, needs = spec
    dy = wide(g_y) * d_act_from_output(wide(y), activation, slope)
    z, *_ = _normalise(x, mean, var, gamma, beta, eps, code, slope_before, False, segments)
    need_dz = needs.x or needs.affine
    dz, g_weight, _ = torch.ops.aten.convolution_backward(
        dy, z, wide(weight), None, *aten_arguments(*geometry), [need_dz, needs.weight, False]
    )
    sums = dy.new_empty(0)
    g_x, g_gamma, g_beta = x.new_empty(0), sums, sums.clone()
    if mean is not None and var is not None and need_dz:
        g_x, g_gamma, g_beta = norm_act.norm_act_backward(
            dz, wide(x), mean, var, gamma, beta, eps, code, slope_before, segments, False,
            training, needs.x, needs.affine,
        )  # fmt: skip
    elif needs.x:
        g_x = dz * d_act(wide(x), code, slope_before)
    return (
        dense_like(g_x, x) if needs.x else x.new_empty(0),
        dense_like(g_weight, weight) if needs.weight else x.new_empty(0),
        dy.sum([0, *range(2, dy.dim())]) if needs.bias else dy.new_empty(0),
        g_gamma,
        g_beta,
    )


def _normalise(
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
    activation: int,
    slope: float,
    training: bool,
    segments: int,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    args = gamma, beta, eps, activation, slope, segments, False
    if training:
        return norm_act.norm_act_train(wide(x), *args)
    if mean is None or var is None:
        return act(wide(x), activation, slope), None, None
    return norm_act.norm_act_eval(wide(x), mean, var, *args), mean, var
