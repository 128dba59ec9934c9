"""The operators of bias_act: what `torch.compile`, `torch.export` and transforms see."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgan.ops.bias_act import reference
from fastgan.ops.bias_act.arguments import Backward, Forward, check_backward, check_forward
from fastgan.ops.core import dispatch
from fastgan.ops.core.activation import LEAKY_RELU, TANH
from fastgan.ops.core.library import Gradients, Needs, Operator, keep, kept
from fastgan.ops.core.memory_format import dense_like
from fastgan.ops.core.tensors import stat_dtype


def _forward(a: Forward, backend: str) -> Tensor:
    return dispatch.kernels(backend, "bias_act", a.x).bias_act(*a)


def _backward(a: Backward, backend: str) -> tuple[Tensor, Tensor]:
    return dispatch.kernels(backend, "bias_act", a.z).bias_act_backward(*a)


def _fake_backward(a: Backward) -> tuple[Tensor, Tensor]:
    channels = a.z.shape[1] if a.need_dbias else 0
    return torch.empty_like(a.z), a.z.new_empty(channels, dtype=stat_dtype(a.z))


FORWARD = Operator(
    "bias_act", Forward, "Tensor",
    check=check_forward, run=_forward, fake=lambda a: torch.empty_like(a.x),
    composition=lambda a: reference.bias_act(*a),
)  # fmt: skip
BACKWARD = Operator(
    "bias_act_backward", Backward, "(Tensor dx, Tensor dbias)",
    check=check_backward, run=_backward, fake=_fake_backward,
    composition=lambda a: reference.bias_act_backward(*a),
)  # fmt: skip


def _save(ctx: Any, a: Forward, backend: str, output: Tensor) -> None:
    ctx.save_for_backward(output)
    ctx.rest = a.activation, a.negative_slope, backend


def _gradients(ctx: Any, needs: Needs, dz: Tensor | None) -> Gradients:
    if dz is None:
        return {}
    (z,) = ctx.saved_tensors
    code, slope, backend = ctx.rest
    a = Backward(dense_like(dz, z), z, code, slope, "bias" in needs)
    dx, dbias = BACKWARD(a, backend, dispatch.is_eager(dz))
    return {"x": dx, "bias": dbias}


def _save_backward(ctx: Any, a: Backward, backend: str, output: Any) -> None:
    keep(ctx, a)
    ctx.backend = backend


def _double_backward(
    ctx: Any, needs: Needs, g_dx: Tensor | None, g_dbias: Tensor | None
) -> Gradients:
    """dx = act'(z) dz and dbias = sum dx are linear in dz: the same kernel, on v = g_dx + g_dbias.

    act' in terms of z is 1 - z^2 for tanh and z (1 - z) for sigmoid, hence the factors of g_z; for
    LeakyReLU it is piecewise constant.
    """
    a = kept(ctx)
    dz, z, code = a.dz, a.z, a.activation
    g_dbias = g_dbias if a.need_dbias else None
    if g_dx is None and g_dbias is None:
        return {}
    v = torch.zeros_like(z) if g_dx is None else g_dx
    if g_dbias is not None:
        v = (v + g_dbias.reshape(-1, *(1,) * (z.dim() - 2))).to(z.dtype)
    g_dz, _ = BACKWARD(a._replace(dz=dense_like(v, z), need_dbias=False), ctx.backend)
    g_z = None
    if code != LEAKY_RELU and "z" in needs:
        g_z = dz * v * (-2 * z if code == TANH else 1 - 2 * z)
    return {"dz": g_dz, "z": g_z}


FORWARD.differentiate(_save, _gradients)
BACKWARD.differentiate(_save_backward, _double_backward)
