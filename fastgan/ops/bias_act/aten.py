"""bias_act by PyTorch's own kernels, under its own autograd: see `dispatch.in_torch`."""

from __future__ import annotations

from torch import Tensor

from fastgan.ops.core.activation import act, act_, is_identity
from fastgan.ops.core.memory_format import dense_like


def bias_act(x: Tensor, bias: Tensor | None, activation: int, slope: float) -> Tensor:
    """The public op, of checked arguments: x dense."""
    if bias is None:
        return x.clone() if is_identity(activation, slope) else act(x, activation, slope)
    y = x + bias.to(x.dtype).reshape(-1, *(1,) * (x.dim() - 2))
    return act_(dense_like(y, x), activation, slope)
