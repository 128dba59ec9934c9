"""Convolution, batch norm and activation as functions, with the arguments of torch.nn's."""

from __future__ import annotations

from torch import Tensor

from fastgan.ops.core.tensors import parameter
from fastgan.ops.norm_act import norm_act
from fastgan.ops.norm_act_conv import norm_act_conv

_Size = tuple[int, ...] | int


def conv_norm_act(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    stride: _Size = 1,
    padding: _Size = 0,
    activation: str = "leaky_relu",
    negative_slope: float = 0.01,
    segments: int = 1,
) -> Tensor:
    """`act(batch_norm(conv(x)))`, the convolution in 1, 2 or 3 dimensions by x's shape.

    weight, bias, stride and padding are those of `torch.nn.functional.conv{1,2,3}d` (dilation and
    groups 1), running_mean to eps those of its `batch_norm`, the rest those of `norm_act`.

    Shapes: x (N, C_in, *spatial), weight (C_out, C_in, *kernel), bias, norm_weight, norm_bias and
    the running statistics (C_out,). Returns (N, C_out, *spatial') in x's dtype and memory layout.
    dtypes: as `norm_act_conv`. Differentiable to any order; saves x and the convolution's output.
    A chain of blocks saves one of the two where `fastgan.nn.FusedSequential` runs it.

    Errors: as `norm_act_conv`'s and `norm_act`'s.
    """
    y = norm_act_conv(x, weight, bias, stride=stride, padding=padding)
    affine = parameter("norm_weight", norm_weight, y), parameter("norm_bias", norm_bias, y)
    return norm_act(
        y, running_mean, running_var, *affine, training, momentum, eps,
        activation=activation, negative_slope=negative_slope, segments=segments,
    )  # fmt: skip


def conv_transpose_norm_act(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    stride: _Size = 1,
    padding: _Size = 0,
    output_padding: _Size = 0,
    activation: str = "leaky_relu",
    negative_slope: float = 0.01,
    segments: int = 1,
) -> Tensor:
    """`act(batch_norm(conv_transpose(x)))`: `conv_norm_act` of a transposed convolution.

    weight (C_in, C_out, *kernel) and output_padding are those of
    `torch.nn.functional.conv_transpose{1,2,3}d`; see `conv_norm_act` for the rest.
    """
    y = norm_act_conv(
        x, weight, bias, stride=stride, padding=padding, output_padding=output_padding,
        transposed=True,
    )  # fmt: skip
    affine = parameter("norm_weight", norm_weight, y), parameter("norm_bias", norm_bias, y)
    return norm_act(
        y, running_mean, running_var, *affine, training, momentum, eps,
        activation=activation, negative_slope=negative_slope, segments=segments,
    )  # fmt: skip
