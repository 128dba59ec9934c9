"""The dispatcher ops of bias_act: what `torch.compile`, `torch.export` and transforms see."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from fastgan.ops.bias_act import reference
from fastgan.ops.core import dispatch, raw_checks
from fastgan.ops.core.activation import LEAKY_RELU, TANH
from fastgan.ops.core.library import LIBRARY, define, operator, register_autograd
from fastgan.ops.core.raw_checks import checked
from fastgan.ops.core.tensors import (
    dense_like,
    stat_dtype,
)

define(
    "bias_act(Tensor x, Tensor? bias, int activation, float negative_slope, str backend) -> Tensor"
)
define(
    "bias_act_backward(Tensor dz, Tensor z, int activation, float negative_slope, "
    "bool need_dbias, str backend) -> (Tensor dx, Tensor dbias)"
)
FORWARD = operator("bias_act", reference.bias_act_forward)
BACKWARD = operator("bias_act_backward", reference.bias_act_backward)


def run(x: Tensor, bias: Tensor | None, code: int, slope: float, backend: str) -> Tensor:
    return dispatch.kernels(backend, "bias_act", x).bias_act_forward(x, bias, code, slope)


def _run_backward(dz: Tensor, z: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    return dispatch.kernels(args[-1], "bias_act", z).bias_act_backward(dz, z, *args[:-1])


def _fake_backward(dz: Tensor, z: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    channels = z.shape[1] if args[2] else 0
    return torch.empty_like(z), z.new_empty(channels, dtype=stat_dtype(z))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(output)
    ctx.spec = inputs[2:]


def _backward(ctx: Any, dz: Tensor) -> tuple[Any, ...]:
    (z,) = ctx.saved_tensors
    code, slope, backend = ctx.spec
    need_dx, need_dbias = ctx.needs_input_grad[:2]
    # The operator has a derivative and is what compilers see; its kernel costs a tenth of a call.
    watched = torch.is_grad_enabled() or not dispatch.is_eager(dz)
    backward = BACKWARD if watched else _run_backward
    dx, dbias = backward(dense_like(dz, z), z, code, slope, need_dbias, backend)
    return dx if need_dx else None, dbias if need_dbias else None, None, None, None


class BiasAct(Function):
    """The op for plain eager calls, past the dispatcher (see norm_act/eager)."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        z = run(*args)
        _save(ctx, args, z)
        return z

    backward = staticmethod(_backward)


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:2])
    ctx.spec = inputs[2:]


def _double_backward(ctx: Any, g_dx: Tensor | None, g_dbias: Tensor | None) -> tuple[Any, ...]:
    """dx = act'(z) dz and dbias = sum dx are linear in dz: the same kernel, on v = g_dx + g_dbias.

    act' in terms of z is 1 - z^2 for tanh and z (1 - z) for sigmoid, hence the factors of g_z; for
    LeakyReLU it is piecewise constant.
    """
    dz, z = ctx.saved_tensors
    code, slope, need_dbias, backend = ctx.spec
    g_dbias = g_dbias if need_dbias else None
    if g_dx is None and g_dbias is None:
        return (None,) * 6
    v = torch.zeros_like(z) if g_dx is None else g_dx
    if g_dbias is not None:
        v = (v + g_dbias.reshape(-1, *(1,) * (z.dim() - 2))).to(z.dtype)
    g_dz, _ = BACKWARD(dense_like(v, z), z, code, slope, False, backend)
    g_z = None
    if code != LEAKY_RELU and ctx.needs_input_grad[1]:
        g_z = dz * v * (-2 * z if code == TANH else 1 - 2 * z)
    return g_dz, g_z, None, None, None, None


for _name, _implementation in (
    ("bias_act", checked(raw_checks.bias_act, run)),
    ("bias_act_backward", checked(raw_checks.bias_act_backward, _run_backward)),
):
    LIBRARY.impl(_name, _implementation, "CompositeExplicitAutograd")
torch.library.register_fake("fastgan::bias_act", lambda x, *_: torch.empty_like(x), lib=LIBRARY)
torch.library.register_fake("fastgan::bias_act_backward", _fake_backward, lib=LIBRARY)
register_autograd("bias_act", _backward, _save, reference.bias_act_forward)
register_autograd(
    "bias_act_backward", _double_backward, _save_backward, reference.bias_act_backward
)
