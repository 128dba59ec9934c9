"""norm_act_conv and conv_block as PyTorch composes them at the dtype of x, the result of each layer
rounded, and in TF32 what a product reads: the tolerance rule allows twice its error. Arguments and
results as the references have.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastgan.kernels.core import precision
from fastgan.ops.conv.geometry import aten_arguments
from fastgan.ops.conv_block import reference as conv_block
from fastgan.ops.core.activation import act, d_act, d_act_from_output
from fastgan.ops.norm_act import reference as norm_act
from fastgan.ops.norm_act_conv.arguments import Backward, Forward


def forward(a: Forward) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    z, mean, var = normalise(a, a.spec.training)
    bias = None if a.bias is None else a.bias.to(z.dtype)
    read = operand(z), operand(a.weight.to(z.dtype))
    y = torch.ops.aten.convolution(*read, bias, *aten_arguments(*a.spec.geometry))
    return act(y, *a.spec.after), mean, var, z


def backward(a: Backward) -> tuple[Tensor | None, ...]:
    x, (mean, var, gamma, beta), spec = a.x, a.norm, a.spec
    dy = a.g_y if a.y is None else a.g_y * d_act_from_output(a.y, *spec.after)
    dz, g_weight, _ = torch.ops.aten.convolution_backward(
        operand(dy), operand(normalise(a, False)[0]), operand(a.weight.to(x.dtype)), None,
        *aten_arguments(*spec.geometry), [a.need_x or a.need_affine, a.need_weight, False],
    )  # fmt: skip
    g_x, g_gamma, g_beta = x.new_empty(0), None, None
    if mean is not None and var is not None and dz is not None:
        g_x, g_gamma, g_beta = norm_act.norm_act_backward(
            dz, x, mean, var, gamma, beta, *spec.norm, spec.training, a.need_x, a.need_affine
        )
    elif a.need_x:
        g_x = dz * d_act(x, *spec.before)
    g_weight = g_weight.to(a.weight.dtype) if a.need_weight else None
    g_bias = dy.float().sum([0, *range(2, dy.dim())]) if a.need_bias else None
    return g_x, g_weight, g_bias, g_gamma, g_beta


def operand(t: Tensor) -> Tensor:
    """As a product reads it: float32 is rounded to 10 bits of fraction while TF32 is the precision
    of products, to the nearest and ties away from 0.
    """
    if t.dtype is not torch.float32 or precision.float32_precision(t.device) != "tf32":
        return t
    return ((t.view(torch.int32) + (1 << 12)) & ~((1 << 13) - 1)).view(torch.float32)


def normalise(a: Forward | Backward, training: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
    mean, var, gamma, beta = a.norm
    if training:
        return norm_act.norm_act_train(a.x, gamma, beta, *a.spec.norm)
    if mean is None or var is None:
        return act(a.x, *a.spec.before), None, None
    return norm_act.norm_act_eval(a.x, mean, var, gamma, beta, *a.spec.norm), None, None


def conv_block_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
    before: int,
    before_slope: float,
    *rest: Any,
) -> tuple[Tensor, ...]:
    *geometry, after, after_slope, segments = rest
    normal = x
    if mean is not None and var is not None:
        options = eps, 0, 1.0, mean.shape[0], False
        normal = norm_act.norm_act_eval(x, mean, var, gamma, beta, *options)
    z = act(normal, before, before_slope)
    own = None if bias is None else bias.to(z.dtype)
    read = operand(z), operand(weight.to(z.dtype))
    y = torch.ops.aten.convolution(*read, own, *aten_arguments(*geometry))
    y = act(y, after, after_slope)
    none = torch.empty(0)
    return y, *(norm_act.moments(norm_act.split(y, segments)) if segments else (none, none))


def _rounded_gradients(
    dtype: torch.dtype, z: Tensor, dy: Tensor, weight: Tensor, *rest: Any
) -> tuple[Tensor | None, Tensor | None]:
    *geometry, need_input, need_weight = rest
    dz, dweight, _ = torch.ops.aten.convolution_backward(
        *(operand(t.to(dtype)) for t in (dy, z, weight)), None, *aten_arguments(*geometry),
        [need_input, need_weight, False],
    )  # fmt: skip
    return dz, dweight


def conv_block_backward(g_y: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    gradients = partial(_rounded_gradients, g_y.dtype)
    return conv_block.conv_block_backward(g_y, *rest, gradients=gradients)
