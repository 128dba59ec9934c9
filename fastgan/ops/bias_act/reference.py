"""bias_act in plain PyTorch, under the names and arguments of the raw kernels."""

from __future__ import annotations

from torch import Tensor

from fastgan.ops.core.activation import act, d_act_from_output
from fastgan.ops.norm_act.reference import stored_like, wide


def bias_act(x: Tensor, bias: Tensor | None, activation: int, negative_slope: float) -> Tensor:
    y = wide(x)
    if bias is not None:
        y = y + bias.reshape(-1, *(1,) * (x.dim() - 2))
    return stored_like(act(y, activation, negative_slope), x)


def bias_act_backward(
    dz: Tensor, z: Tensor, activation: int, negative_slope: float, need_dbias: bool
) -> tuple[Tensor, Tensor]:
    dx = wide(dz) * d_act_from_output(wide(z), activation, negative_slope)
    over = [d for d in range(z.dim()) if d != 1]
    dbias = dx.sum(over) if need_dbias else dx.new_empty(0)
    return stored_like(dx, z), dbias
