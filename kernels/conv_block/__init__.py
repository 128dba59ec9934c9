"""Triton's conv_block: a convolution of a tensor that waits for its norm and activation, and the
statistics of what it stores. Arguments as those of the reference.

Two designs. Where `tma.serves` a convolution, its operands z = act(norm(x)) and dy are each written
once and the products read them by TMA. Elsewhere the products gather, as the weight gradient does
in TF32: they form the operands as they load. Both sum statistics, and the sums of the norm's
gradient, as they store.

Launches: forward 4 (rows of the norm; z, or the packed weight; convolution; merged statistics);
backward 1 for the rows, 1 for dy (of TMA), 2 or 3 for the data gradient ((packed weight,)
convolution, merged sums), 1 for z again (of TMA), and the weight and bias gradient's as `weight.py`
says. What is not needed is not launched. Where statistics travel with a tensor (`ops/norm_act_conv/
fused.py`) the passes of `tma/passes.py` stand in for rows, z, merges and dy: forward 2, backward 4.
"""

import torch

from fastgan.kernels.conv_block.forward import (
    Activation,
    conv_data_gradient,
    conv_forward,
    conv_rows,
)
from fastgan.kernels.conv_block.geometry import conv_geometry
from fastgan.kernels.conv_block.partials import conv_norm_gradients
from fastgan.kernels.conv_block.tma import (
    form_gradient,
    form_input,
    serves,
    tma_data_gradient,
    tma_forward,
    tma_weight_gradient,
)
from fastgan.kernels.conv_block.weight import conv_weight_gradient
from fastgan.kernels.core.precision import precision

__all__ = ["conv_block_backward", "conv_block_forward"]

Tensor = torch.Tensor


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
    """(y, y_mean, y_var): y = act(conv(pre(norm(x))) + bias), channels-last, in x's dtype.

    x (N, C_in, *spatial) float32, bfloat16 or float16; mean and var (S, C_in) float32 or both None;
    gamma, beta (C_in,), bias (C_out,) float32 or None; weight in torch's layout, of any such dtype.
    Statistics of y as stored: (segments, C_out) float32, var biased; empty with segments 0.
    Raises TypeError for another dtype, ValueError for shapes that do not fit.
    """
    geo = conv_geometry(x, weight, stride, padding, output_padding, transposed)
    norm = None if mean is None or var is None else (mean, var, gamma, beta, eps)
    rows, _ = conv_rows(norm, None)
    x = _channels_last(x)
    pre, post = Activation(pre_activation, pre_slope), Activation(activation, slope)
    if serves(geo, x):
        z = form_input(x, rows, pre, precision(x))
        return tma_forward(z, weight, bias, geo, post, segments)
    return conv_forward(x, rows, pre, weight, bias, geo, post, segments)


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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(g_x, g_weight, g_bias, g_mean, g_var, g_gamma, g_beta); what is not needed comes empty.

    g_y is the gradient of y, g_mean and g_var (segments, C_out) those of its statistics or None; x,
    y and y_mean are the forward pass's. need_x covers the four of the norm. g_x does not hold what
    flows through mean and var. g_x is channels-last in x's dtype, g_weight in weight's dtype and
    layout, the others float32. Raises as `conv_block_forward` does.
    """
    geo = conv_geometry(x, weight, stride, padding, output_padding, transposed)
    x, y, g_y = (_channels_last(t.to(x.dtype)) for t in (x, y, g_y))
    pre, post = Activation(pre_activation, pre_slope), Activation(activation, slope)
    norm = gradient = None
    if mean is not None and var is not None:
        norm = (mean, var, gamma, beta, eps)
    if segments and not (g_mean is None and g_var is None):
        count = y.numel() // max(1, segments * y.shape[1])
        gradient = (y_mean, g_mean, g_var, max(1, count))
    rows, gradient_rows = conv_rows(norm, gradient)
    by_tma, weight_by_tma = serves(geo, x), serves(geo, x, of_weight=True)
    dy = g_y
    if by_tma and (need_x or weight_by_tma):
        dy = form_gradient(g_y, y, gradient_rows, post, precision(x))
    if weight_by_tma:  # else the weight's and the bias' form it as they load, not rounded to TF32
        g_y, gradient_rows, post = dy, None, Activation()
    empty = x.new_empty(0, dtype=torch.float32)
    g_x, of_norm = x.new_empty(0), (empty,) * 4
    if need_x:
        if by_tma:
            g_x, sum_a, sum_ax = tma_data_gradient(dy, weight, geo, x, rows, pre)
        else:
            g_x, sum_a, sum_ax = conv_data_gradient(
                g_y, y, gradient_rows, post, weight, geo, x, rows, pre
            )
        if norm is not None:
            of_norm = conv_norm_gradients(sum_a, sum_ax, var, gamma, eps)
    g_weight, g_bias = x.new_empty(0), empty
    if need_weight and weight_by_tma:
        z = form_input(x, rows, pre)
        g_weight, need_weight = tma_weight_gradient(z, g_y, weight, geo), False
    if need_weight or need_bias:
        gathered, g_bias = conv_weight_gradient(
            x, rows, pre, g_y, y, gradient_rows, post, weight, geo, need_weight, need_bias
        )
        g_weight = gathered if need_weight else g_weight
    return g_x, g_weight, g_bias, *of_norm


def _channels_last(t: Tensor) -> Tensor:
    """``t`` if its channels are innermost in dense memory, else a copy so laid out."""
    rows = t.movedim(1, -1)
    return t if rows.is_contiguous() else rows.contiguous().movedim(-1, 1)
