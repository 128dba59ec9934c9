"""The operators of norm_act: what `torch.compile`, `torch.export` and transforms see."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import torch
from torch import Tensor

from fastgan.ops.core import dispatch
from fastgan.ops.core.activation import act
from fastgan.ops.core.library import Gradients, Needs, Operator, keep, kept
from fastgan.ops.core.memory_format import dense_like
from fastgan.ops.core.tensors import stat_dtype
from fastgan.ops.core.together import Queue
from fastgan.ops.norm_act import reference
from fastgan.ops.norm_act.arguments import (
    Backward,
    Eval,
    Train,
    Update,
    check_backward,
    check_eval,
    check_train,
    check_update,
)
from fastgan.ops.norm_act.second_order import norm_act_double_backward

Three = tuple[Tensor, Tensor, Tensor]


def _kernels(backend: str, x: Tensor) -> Any:
    if backend == "reference":  # without asking for a module, which the compiler would not follow
        return reference
    return dispatch.kernels(backend, "norm_act", x)


def _train(a: Train, backend: str) -> Three:
    return _kernels(backend, a.x).norm_act_train(a.x, a.weight, a.bias, *a.spec)


def _eval(a: Eval, backend: str) -> Tensor:
    kernels = _kernels(backend, a.x)
    return kernels.norm_act_eval(a.x, a.mean, a.var, a.weight, a.bias, *a.spec)


def _backward(a: Backward, backend: str) -> Three:
    *tensors, spec, training, need_dx, need_dparams = a
    kernels = _kernels(backend, a.x)
    return kernels.norm_act_backward(*tensors, *spec, training, need_dx, need_dparams)


def _update(a: Update, backend: str) -> None:
    """Moves the running statistics in place, and raises their versions: autograd then sees it where
    they were saved for a backward, which no kernel below it does.
    """
    _kernels(backend, a.running_mean).update_running_stats_(*a)
    torch.autograd.graph.increment_version((a.running_mean, a.running_var))


def snapshot(mean: Tensor | None, var: Tensor | None) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Copies of given statistics for a backward: a training pass may move them before it runs."""
    return (None, None) if mean is None or var is None else (mean.clone(), var.clone())


# Without values, for tracing.


def _stats_like(x: Tensor, *shape: int) -> Tensor:
    return x.new_empty(shape, dtype=stat_dtype(x))


def _fake_train(a: Train) -> Three:
    shape = a.spec.segments, a.x.shape[1]
    return torch.empty_like(a.x), _stats_like(a.x, *shape), _stats_like(a.x, *shape)


def _fake_backward(a: Backward) -> Three:
    params = a.x.shape[1] if a.need_dparams else 0
    dx = torch.empty_like(a.x) if a.need_dx else a.x.new_empty(0)
    return dx, _stats_like(a.x, params), _stats_like(a.x, params)


# In PyTorch's operators, for transforms.


def _composite_train(a: Train) -> Three:
    z, mean, var = reference.norm_act_train(a.x, a.weight, a.bias, *a.spec)
    return z, mean.detach(), var.detach()


def _composite_eval(a: Eval) -> Tensor:
    return _eval(a, "reference")


def _composite_backward(a: Backward) -> Three:
    if a.training:  # again, for they depend on x
        _, code, slope, segments, act_first = a.spec
        u = reference.split(a.x, segments)
        mean, var = reference.moments(act(u, code, slope) if act_first else u)
        a = a._replace(mean=mean, var=var)
    return _backward(a, "reference")


def _composite_update(a: Update) -> None:
    """The running statistics may be tensors from outside of a transform, as torch.nn's may.

    They are written to through an alias, for those of a transform's own are all it lets change.
    """
    unbiased = a.var * (a.count / (a.count - 1))
    for running, batch in ((a.running_mean, a.mean), (a.running_var, unbiased)):
        moved = running
        for value in [batch.mean(0)] if a.average else batch.unbind(0):
            moved = torch.add(moved * (1 - a.momentum), value, alpha=a.momentum)
        _set(torch.ops.aten.alias(running), moved)


def _set(running: Tensor, moved: Tensor) -> None:
    batched = torch._C._functorch.is_batchedtensor
    if batched(moved) and not batched(running):
        raise RuntimeError(
            "running_mean, running_var: are moved in place, by every sample of vmap alike; batch "
            "them as well, or do without (track_running_stats=False), or evaluate"
        )
    running.copy_(moved)


TRAIN = Operator(
    "norm_act_train", Train, "(Tensor z, Tensor mean, Tensor var)",
    check=check_train, run=_train, fake=_fake_train, composition=_composite_train,
)  # fmt: skip
EVAL = Operator(
    "norm_act_eval", Eval, "Tensor",
    check=check_eval, run=_eval, fake=lambda a: torch.empty_like(a.x), composition=_composite_eval,
)  # fmt: skip
BACKWARD = Operator(
    "norm_act_backward", Backward, "(Tensor dx, Tensor dweight, Tensor dbias)",
    check=check_backward, run=_backward, fake=_fake_backward, composition=_composite_backward,
)  # fmt: skip
UPDATE = Operator(
    "update_running_stats_", Update, "()",
    check=check_update, run=_update, fake=lambda _: None, composition=_composite_update,
)  # fmt: skip


def move(
    running: tuple[Tensor, Tensor], mean: Tensor, var: Tensor, momentum: float, count: int,
    average: bool, backend: str, is_eager: bool,
) -> None:  # fmt: skip
    """Moves running statistics towards a batch's; on a GPU, within `together`, at its end."""
    a = Update(*running, mean, var, momentum, count, average)
    if is_eager:
        if MOVES.items is None or average or not mean.is_cuda:
            return UPDATE.run(a, backend)
        MOVES.items.append(a)
        torch.autograd.graph.increment_version(running)
        return None
    with torch.no_grad():
        UPDATE(a, backend, is_eager)


def settle_for(running_mean: Tensor) -> None:
    """Moves what waits, if statistics that are about to be read or written elsewhere are in it."""
    waiting, place = MOVES.items, running_mean.data_ptr
    if waiting and any(a.running_mean.data_ptr() == place() for a in waiting):
        MOVES.flush()


@torch.no_grad()
def _move_all(waiting: list[Update]) -> None:
    """By a few launches for all."""
    unbias = [a.count / (a.count - 1) for a in waiting]
    variances = torch._foreach_mul([a.var for a in waiting], unbias)
    # Of each pair of running statistics what it moves to, in turn.
    turns: dict[tuple[int, float], list[tuple[Tensor, Tensor]]] = defaultdict(list)
    taken: Counter[int] = Counter()
    for a, var in zip(waiting, variances, strict=True):
        for of_mean, of_var in zip(a.mean.unbind(), var.unbind(), strict=True):
            turn = taken[a.running_mean.data_ptr()]
            taken[a.running_mean.data_ptr()] += 1
            turns[turn, a.momentum] += (a.running_mean, of_mean), (a.running_var, of_var)
    for (_, momentum), pairs in sorted(turns.items(), key=lambda item: item[0]):
        running, batch = (list(side) for side in zip(*pairs, strict=True))
        torch._foreach_lerp_(running, batch, momentum)


MOVES = Queue(_move_all)


# Derivatives.


def _save_train(ctx: Any, a: Train, backend: str, output: Three) -> None:
    _, mean, var = output
    ctx.mark_non_differentiable(mean, var)
    ctx.save_for_backward(a.x, mean, var, a.weight, a.bias)
    ctx.rest = a.spec, True, backend


def _save_eval(ctx: Any, a: Eval, backend: str, output: Tensor) -> None:
    ctx.save_for_backward(a.x, *snapshot(a.mean, a.var), a.weight, a.bias)
    ctx.rest = a.spec, False, backend


def _gradients(ctx: Any, needs: Needs, dz: Tensor | None, *_: Any) -> Gradients:
    if dz is None:
        return {}
    x, mean, var, weight, bias = ctx.saved_tensors
    spec, training, backend = ctx.rest
    need_dx, need_dparams = "x" in needs, "weight" in needs or "bias" in needs
    given = dense_like(dz, x), x, mean, var, weight, bias, spec, training, need_dx, need_dparams
    dx, dweight, dbias = BACKWARD(Backward(*given), backend, dispatch.is_eager(dz))
    return {"x": dx, "weight": dweight, "bias": dbias}


def _save_backward(ctx: Any, a: Backward, backend: str, output: Three) -> None:
    keep(ctx, a)


def _double_backward(ctx: Any, needs: Needs, g_dx: Any, g_dweight: Any, g_dbias: Any) -> Gradients:
    a: Backward = kept(ctx)
    g_dx = g_dx if a.need_dx else None
    g_dweight, g_dbias = (g_dweight, g_dbias) if a.need_dparams else (None, None)
    if g_dx is None and g_dweight is None and g_dbias is None:
        return {}
    found = norm_act_double_backward(g_dx, g_dweight, g_dbias, a)
    return dict(zip(("dz", "x", "weight", "bias"), found, strict=True))


TRAIN.differentiate(_save_train, _gradients, first_alone=True)
EVAL.differentiate(_save_eval, _gradients)
BACKWARD.differentiate(_save_backward, _double_backward)
