"""norm_act for plain eager calls, straight to the raw kernels.

A dispatcher operator whose derivative is written in Python takes some 100 us a call on a CPU, an
`autograd.Function` over the raw kernels a tenth of that: as much as the eager operators it
replaces. On the CPU backend there is a C++ one, for half of that again. Under `create_graph` the
backward is the dispatcher operator, which has a derivative.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from fastgan.ops.core import dispatch
from fastgan.ops.core.tensors import dense_like, own_output
from fastgan.ops.norm_act.autograd import BACKWARD, snapshot, update_

Spec = tuple[float, int, float, int, bool]  # eps, activation, negative_slope, segments, act_first
Running = tuple[Tensor, Tensor] | None
Moving = tuple[float, int, bool]  # momentum, count, average


def in_cpp(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    spec: Spec,
    average: bool,
    backend: str,
) -> Tensor | None:
    """act(norm(x)) in C++, or None where that does not serve this backend or these arguments.

    It does not where an argument is wrong or has to be converted: the caller then says which, or
    converts it. Looking for that in Python takes as long as the kernels of a small layer.
    """
    if not dispatch.in_cpp(backend, x):
        return None
    eps, code, slope, segments, act_first = spec
    z: Tensor | None = torch.ops.fastgan_eager.norm_act(
        x, running_mean, running_var, weight, bias, training, momentum, eps, code, slope, segments,
        act_first, average, backend,
    )  # fmt: skip
    return z


def train(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    spec: Spec,
    backend: str,
    running: Running,
    moving: Moving,
) -> Tensor:
    """act(norm(x)) by the statistics of x, towards which `running` moves."""
    momentum, _, average = moving
    mean, var = running or (None, None)
    z = in_cpp(x, mean, var, weight, bias, True, momentum, spec, average, backend)
    if z is not None:
        return z
    if _needs_gradient(x, weight, bias):
        return _Train.apply(x, weight, bias, spec, backend, running, moving)
    return _train(x, weight, bias, spec, backend, running, moving)[0]


def evaluate(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    spec: Spec,
    backend: str,
) -> Tensor:
    """act(norm(x)) by given statistics."""
    z = in_cpp(x, mean, var, weight, bias, False, 0.0, spec, False, backend)
    if z is not None:
        return z
    mean, var = mean.reshape(1, -1), var.reshape(1, -1)
    if _needs_gradient(x, weight, bias):
        return _Eval.apply(x, mean, var, weight, bias, spec, backend)
    raw = dispatch.kernels(backend, "norm_act", x)
    return raw.norm_act_eval(x, mean, var, weight, bias, *spec)


def _needs_gradient(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _train(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    spec: Spec,
    backend: str,
    running: Running,
    moving: Moving,
) -> tuple[Tensor, Tensor, Tensor]:
    raw = dispatch.kernels(backend, "norm_act", x)
    z, mean, var = raw.norm_act_train(x, weight, bias, *spec)
    if running is not None:
        update_(*running, mean, var, *moving, backend)
    return z, mean, var


class _Train(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Any, bias: Any, *rest: Any) -> Tensor:
        z, mean, var = _train(x, weight, bias, *rest)
        ctx.save_for_backward(x, mean, var, weight, bias)
        ctx.spec, ctx.backend = rest[:2]
        return own_output(z)

    @staticmethod
    def backward(ctx: Any, dz: Tensor) -> tuple[Any, ...]:
        return (*_gradients(ctx, dz, True, ctx.needs_input_grad[:3]), None, None, None, None)


class _Eval(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mean: Tensor, var: Tensor, weight: Any, bias: Any, *rest: Any
    ) -> Tensor:
        ctx.save_for_backward(x, *snapshot(mean, var), weight, bias)
        ctx.spec, ctx.backend = rest
        raw = dispatch.kernels(ctx.backend, "norm_act", x)
        return own_output(raw.norm_act_eval(x, mean, var, weight, bias, *ctx.spec))

    @staticmethod
    def backward(ctx: Any, dz: Tensor) -> tuple[Any, ...]:
        needs = ctx.needs_input_grad
        dx, dweight, dbias = _gradients(ctx, dz, False, (needs[0], needs[3], needs[4]))
        return dx, None, None, dweight, dbias, None, None


def _gradients(ctx: Any, dz: Tensor, training: bool, needs: tuple[bool, ...]) -> tuple[Any, ...]:
    """(dx, dweight, dbias), None for each that `needs` does not ask for."""
    x, mean, var, weight, bias = ctx.saved_tensors
    need_dx, need_weight, need_bias = needs
    inputs = dense_like(dz, x), x, mean, var, weight, bias
    rest = *ctx.spec, training, need_dx, need_weight or need_bias
    if torch.is_grad_enabled() or not dispatch.is_eager(dz):
        dx, dweight, dbias = BACKWARD(*inputs, *rest, ctx.backend)
    else:
        raw = dispatch.kernels(ctx.backend, "norm_act", x)
        dx, dweight, dbias = raw.norm_act_backward(*inputs, *rest)
    return dx if need_dx else None, dweight if need_weight else None, dbias if need_bias else None
