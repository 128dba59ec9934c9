"""norm_act_conv by PyTorch's own kernels, under its own autograd: see `dispatch.in_torch`."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.ops.conv.aten import reads_beyond
from fastgan.ops.conv.geometry import aten_arguments
from fastgan.ops.conv.problem import arithmetic
from fastgan.ops.core.activation import act, act_, is_identity
from fastgan.ops.core.memory_format import channels_last, is_channels_last
from fastgan.ops.norm_act.aten import norm_act
from fastgan.ops.norm_act_conv.arguments import Spec


def norm_act_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    running: tuple[Tensor, Tensor] | None,
    affine: tuple[Tensor | None, Tensor | None],
    spec: Spec,
    momentum: float,
    average: bool,
) -> Tensor:
    """The public op, of checked arguments: x dense and not empty, `running` moved in training."""
    z, training = x, spec.training
    if training or running is not None:
        pair = running or (None, None)
        z = norm_act(x, pair, *affine, training, momentum, spec.norm, average)
    elif not is_identity(*spec.before):
        z = act(x, *spec.before)
    of_conv = weight.shape, spec.geometry, x.dtype, x.device.type
    beyond = torch.is_grad_enabled() and reads_beyond(x.shape, *of_conv)
    dtype = torch.float32 if beyond else arithmetic(x.dtype, x.device.type)
    own_bias = None if bias is None else bias.to(dtype)
    geometry = aten_arguments(*spec.geometry)
    y = torch.convolution(z.to(dtype), weight.to(dtype), own_bias, *geometry)
    y = act_(y.to(x.dtype), *spec.after)
    return channels_last(y) if is_channels_last(x) else y.contiguous()
