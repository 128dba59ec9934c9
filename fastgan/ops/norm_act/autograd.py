"""The dispatcher ops of norm_act: what `torch.compile`, `torch.export` and transforms see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgan.ops.core import dispatch, raw_checks
from fastgan.ops.core.activation import act
from fastgan.ops.core.library import LIBRARY, define, operator, register_autograd
from fastgan.ops.core.raw_checks import checked
from fastgan.ops.core.tensors import dense_like, stat_dtype
from fastgan.ops.norm_act import reference
from fastgan.ops.norm_act.second_order import norm_act_double_backward

_SPEC = "float eps, int activation, float negative_slope, SymInt segments, bool act_first"

define(
    f"norm_act_train(Tensor x, Tensor? weight, Tensor? bias, {_SPEC}, str backend) "
    "-> (Tensor z, Tensor mean, Tensor var)"
)
define(
    f"norm_act_eval(Tensor x, Tensor mean, Tensor var, Tensor? weight, Tensor? bias, {_SPEC}, "
    "str backend) -> Tensor"
)
define(
    "norm_act_backward(Tensor dz, Tensor x, Tensor mean, Tensor var, Tensor? weight, Tensor? bias, "
    f"{_SPEC}, bool training, bool need_dx, bool need_dparams, str backend) "
    "-> (Tensor dx, Tensor dweight, Tensor dbias)"
)
define(
    "update_running_stats_(Tensor(a!) running_mean, Tensor(b!) running_var, Tensor mean, "
    "Tensor var, float momentum, SymInt count, bool average, str backend) -> ()"
)


def _composed_train(x: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    z, mean, var = reference.norm_act_train(x, *args)
    return z, mean.detach(), var.detach()


def _composed_backward(
    dz: Tensor, x: Tensor, mean: Tensor, var: Tensor, *args: Any
) -> tuple[Tensor, Tensor, Tensor]:
    *_, activation, slope, segments, act_first, training, _, _ = args
    if training:  # again, for they depend on x
        u = reference.split(x, segments)
        mean, var = reference.moments(act(u, activation, slope) if act_first else u)
    return reference.norm_act_backward(dz, x, mean, var, *args)


def _composed_update(
    running_mean: Tensor,
    running_var: Tensor,
    mean: Tensor,
    var: Tensor,
    momentum: float,
    count: int,
    average: bool,
) -> None:
    """The running statistics may be tensors from outside of a transform, as torch.nn's may.

    They are written to through an alias, for those of a transform's own are all it lets change.
    """
    unbiased = var * (count / (count - 1))
    for running, batch in ((running_mean, mean), (running_var, unbiased)):
        moved = running
        for value in [batch.mean(0)] if average else batch.unbind(0):
            moved = torch.add(moved * (1 - momentum), value, alpha=momentum)
        _set(torch.ops.aten.alias(running), moved)


def _set(running: Tensor, moved: Tensor) -> None:
    batched = torch._C._functorch.is_batchedtensor
    if batched(moved) and not batched(running):
        raise RuntimeError(
            "running_mean, running_var: are moved in place, by every sample of vmap alike; batch "
            "them as well, or do without (track_running_stats=False), or evaluate"
        )
    running.copy_(moved)


TRAIN = operator("norm_act_train", _composed_train)
EVAL = operator("norm_act_eval", reference.norm_act_eval)
BACKWARD = operator("norm_act_backward", _composed_backward)
UPDATE = operator("update_running_stats_", _composed_update)


def _run_train(x: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    return dispatch.kernels(args[-1], "norm_act", x).norm_act_train(x, *args[:-1])


def _run_eval(x: Tensor, *args: Any) -> Tensor:
    return dispatch.kernels(args[-1], "norm_act", x).norm_act_eval(x, *args[:-1])


def _run_backward(dz: Tensor, x: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    return dispatch.kernels(args[-1], "norm_act", x).norm_act_backward(dz, x, *args[:-1])


def update_(running_mean: Tensor, running_var: Tensor, *args: Any) -> None:
    """Moves the running statistics in place, and raises their versions: autograd then sees it where
    they were saved for a backward, which no kernel below it does.
    """
    kernels = dispatch.kernels(args[-1], "norm_act", running_mean)
    kernels.update_running_stats_(running_mean, running_var, *args[:-1])
    torch.autograd.graph.increment_version((running_mean, running_var))


def snapshot(mean: Tensor | None, var: Tensor | None) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Copies of given statistics for a backward: a training pass may move them before it runs."""
    return (None, None) if mean is None or var is None else (mean.clone(), var.clone())


def _stats_like(x: Tensor, *shape: int) -> Tensor:
    return x.new_empty(shape, dtype=stat_dtype(x))


def _fake_train(x: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    shape = args[5], x.shape[1]
    return torch.empty_like(x), _stats_like(x, *shape), _stats_like(x, *shape)


def _fake_backward(dz: Tensor, x: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    need_dx, need_dparams = args[-3:-1]
    params = x.shape[1] if need_dparams else 0
    dx = torch.empty_like(x) if need_dx else x.new_empty(0)
    return dx, _stats_like(x, params), _stats_like(x, params)


def _save_train(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, *spec = inputs
    _, mean, var = output
    ctx.mark_non_differentiable(mean, var)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, mean, var, weight, bias)
    ctx.spec = spec


def _save_eval(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, mean, var, weight, bias, *spec = inputs
    ctx.save_for_backward(x, *snapshot(mean, var), weight, bias)
    ctx.spec = spec


def _gradients(ctx: Any, dz: Tensor, training: bool, needs: tuple[bool, ...]) -> tuple[Any, ...]:
    """(dx, dweight, dbias), None for each that `needs` does not ask for."""
    x, mean, var, weight, bias = ctx.saved_tensors
    *spec, backend = ctx.spec
    need_dx, need_weight, need_bias = needs
    dx, dweight, dbias = BACKWARD(
        dense_like(dz, x), x, mean, var, weight, bias, *spec, training, need_dx,
        need_weight or need_bias, backend,
    )  # fmt: skip
    return dx if need_dx else None, dweight if need_weight else None, dbias if need_bias else None


def _backward_train(ctx: Any, dz: Tensor | None, *_: Any) -> tuple[Any, ...]:
    rest = (None,) * 6
    if dz is None:
        return (None,) * 3 + rest
    return (*_gradients(ctx, dz, True, ctx.needs_input_grad[:3]), *rest)


def _backward_eval(ctx: Any, dz: Tensor) -> tuple[Any, ...]:
    needs = ctx.needs_input_grad
    dx, dweight, dbias = _gradients(ctx, dz, False, (needs[0], needs[3], needs[4]))
    return (dx, None, None, dweight, dbias, *(None,) * 6)


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:6])
    ctx.spec = inputs[6:]


def _double_backward(ctx: Any, g_dx: Any, g_dweight: Any, g_dbias: Any) -> tuple[Any, ...]:
    *spec, need_dx, need_dparams, _ = ctx.spec
    g_dx = g_dx if need_dx else None
    g_dweight, g_dbias = (g_dweight, g_dbias) if need_dparams else (None, None)
    if g_dx is None and g_dweight is None and g_dbias is None:
        return (None,) * 15
    g_dz, g_x, g_weight, g_bias = norm_act_double_backward(
        g_dx, g_dweight, g_dbias, *ctx.saved_tensors, *spec
    )
    return (g_dz, g_x, None, None, g_weight, g_bias, *(None,) * 9)


_RUNS: dict[str, Callable[..., Any]] = {
    "norm_act_train": _run_train,
    "norm_act_eval": _run_eval,
    "norm_act_backward": _run_backward,
    "update_running_stats_": update_,
}
for _name, _implementation in _RUNS.items():
    _guarded = checked(getattr(raw_checks, _name), _implementation)
    LIBRARY.impl(_name, _guarded, "CompositeExplicitAutograd")


def _register() -> None:
    fake = torch.library.register_fake
    fake("fastgan::norm_act_train", _fake_train, lib=LIBRARY)
    fake("fastgan::norm_act_eval", lambda x, *_: torch.empty_like(x), lib=LIBRARY)
    fake("fastgan::norm_act_backward", _fake_backward, lib=LIBRARY)
    fake("fastgan::update_running_stats_", lambda *_: None, lib=LIBRARY)
    register_autograd("norm_act_train", _backward_train, _save_train, _composed_train)
    register_autograd("norm_act_eval", _backward_eval, _save_eval, reference.norm_act_eval)
    register_autograd("norm_act_backward", _double_backward, _save_backward, _composed_backward)


_register()
