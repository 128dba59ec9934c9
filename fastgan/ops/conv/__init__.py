"""Raw convolutions, ordinary and transposed, without autograd: forward and both gradients.

Groups and dilation are 1. Weights have torch.nn's layout: (C_out, C_in, *k), transposed
(C_in, C_out, *k), with any strides. `algorithms.py` says what runs a pass. triton: its kernels are
asked for, whatever the backend.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.ops.conv import bf16, product, small_channels_triton
from fastgan.ops.conv.algorithms import select
from fastgan.ops.conv.geometry import Geometry, as_2d
from fastgan.ops.conv.problem import DATA_GRADIENT, FORWARD, WEIGHT_GRADIENT, describe
from fastgan.ops.conv.run import Epilogue
from fastgan.ops.core.memory_format import dense_like


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    activation: int,
    slope: float,
    triton: bool = False,
) -> Tensor:
    """`act(conv(x) + bias)` in x's dtype, channels-last where x is, else contiguous.

    bias float32 (float64 for float64 x) or None. A tensor that is both contiguous and
    channels-last (one channel, or one position) counts as channels-last.
    """
    if x.dim() == 3:
        x, weight, geometry = x.unsqueeze(2), weight.unsqueeze(2), as_2d(geometry)
        return forward(x, weight, bias, geometry, activation, slope, triton).squeeze(2)
    epilogue = Epilogue(bias, activation, slope)
    p = describe(FORWARD, x, weight, geometry, not epilogue.is_identity, triton)
    return select(p).run(p, x, weight, epilogue)


def backward_input(
    dy: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, triton: bool = False
) -> Tensor:
    """The gradient of x; of x itself only shape, dtype and layout are read."""
    if x.dim() == 3:
        dy, x, weight = dy.unsqueeze(2), x.unsqueeze(2), weight.unsqueeze(2)
        return backward_input(dy, x, weight, as_2d(geometry), triton).squeeze(2)
    p = describe(DATA_GRADIENT, x, weight, geometry, triton=triton)
    return dense_like(select(p).run(p, dy, weight, Epilogue()), x)


def backward_weight(
    dy: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, triton: bool = False
) -> Tensor:
    """The gradient of weight; of weight itself only shape, dtype and layout are read."""
    if x.dim() == 3:
        dy, x, weight = dy.unsqueeze(2), x.unsqueeze(2), weight.unsqueeze(2)
        return backward_weight(dy, x, weight, as_2d(geometry), triton).squeeze(2)
    p = describe(WEIGHT_GRADIENT, x, weight, geometry, triton=triton)
    return dense_like(select(p).run(p, x, dy, Epilogue()), weight)


def reads_float32(x: Tensor, weight: Tensor, geometry: Geometry, triton: bool = False) -> bool:
    """Whether the passes of a half-precision x round a float32 weight themselves.

    It need not be converted then.
    """
    if weight.dtype is not torch.float32 or x.dim() != 4:
        return False
    chosen = select(describe(FORWARD, x, weight, geometry, triton=triton))
    return chosen in (bf16, small_channels_triton, product)
