"""Plain eager calls of norm_act_conv by the kernels whose statistics travel (`fused`): one autograd
function around all of it, and what makes a call that was found right again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from fastgan.ops.core import dispatch, native
from fastgan.ops.core.activation import is_identity
from fastgan.ops.core.library import plain_apply, will_run
from fastgan.ops.core.memory_format import channels_last
from fastgan.ops.core.tensors import check_apart, lies
from fastgan.ops.norm_act import autograd as norm_ops
from fastgan.ops.norm_act.arguments import NormTensors
from fastgan.ops.norm_act_conv import fused
from fastgan.ops.norm_act_conv.arguments import Backward, Forward, Norm, Spec
from fastgan.ops.norm_act_conv.autograd import all_gradients
from fastgan.ops.norm_act_conv.fused import Companions, Outputs, Plan, Statistics


def kind_of(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm: Norm | None,
    of_x: Statistics | None,
    segments: int,
) -> object:
    """What of the arguments of `with_statistics` its checks and its plan depend on, beside the
    options that a layer has for good, and backend, autocast and mode of gradients.
    """
    pieces = None if of_x is None else of_x.means
    if norm is None:
        known = native.WITH_AUTOGRAD.kind(0, x, weight, bias, pieces, segments)
        return known or (segments, *map(lies, (x, weight, bias, pieces)))
    mean, var, gamma, beta, training, momentum, eps, of_norm, average = norm
    known = native.WITH_AUTOGRAD.kind(
        2, x, weight, bias, pieces, segments, gamma, beta, training, momentum, eps, of_norm,
        average, mean, var,
    )  # fmt: skip
    if known:
        return known
    settings = segments, training, momentum, eps, of_norm, average
    running = mean is not None and mean.requires_grad, var is not None and var.requires_grad
    return *settings, *running, *map(lies, (x, weight, bias, pieces, mean, var, gamma, beta))


class Repeated:
    """Calls alike (see `kind_of`): their arguments are right, and what follows is decided.

    Attributes:
        spec, keep_z, backend: of `Forward`, and of what runs it.
        segments: of the statistics of y that are wanted; 0: none.
        keeps_output: whether the backward reads y.
        given: the places of `_GIVEN` that are not None.
        momentum, count, average: of the running statistics, as `norm_act.autograd.move` takes them.
        converts: whether other tensors than x have to be converted for the kernels.
        converts_x: whether x has to be.
    """

    def __init__(
        self,
        spec: Spec,
        keep_z: bool,
        backend: str,
        segments: int,
        given: tuple[Tensor | None, ...],
        momentum: float,
        count: int,
        average: bool,
    ) -> None:
        self.spec, self.keep_z, self.backend = spec, keep_z, backend
        self.keeps_output = not is_identity(*spec.after)
        self.segments, self.momentum = segments, momentum
        self.count, self.average = count, average
        x = given[0]
        assert x is not None
        self._dtype = x.dtype
        self.given = [i for i, t in enumerate(given) if t is not None]
        self.plan: Plan | None = None
        self.kind: object = ()
        self.converts = self.converts_x = False

    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        norm: NormTensors,
        running: tuple[Tensor, Tensor] | None,
        of_x: Statistics | None,
    ) -> tuple[Tensor, Statistics | None]:
        """y, and its statistics where they are wanted and the convolution leaves them.

        x channels-last, bias and norm as kernels take them; running: moved where it is not None.
        """
        if running is not None and norm_ops.MOVES.items:
            norm_ops.settle_for(running[0])
        if of_x is not None and of_x.counts.shape[0] != self.spec.segments:
            of_x = None  # of other slices than the norm's
        mean, var, gamma, beta = norm
        call = _Call(self, of_x, running, mean, var)
        if torch.is_grad_enabled():
            y: Tensor = _apply(x, weight, bias, gamma, beta, call)
            outputs = call.outputs
        else:
            outputs = call.run(x, weight, bias, gamma, beta)
            y = outputs.y
        assert outputs is not None
        if running is not None and outputs.rows is None:
            assert outputs.mean is not None
            assert outputs.var is not None
            norm_ops.move(
                running, outputs.mean, outputs.var, self.momentum, self.count, self.average,
                self.backend, True,
            )  # fmt: skip
        elif running is not None:  # they were moved where the pieces were merged
            torch.autograd.graph.increment_version(running)
        return y, outputs.statistics

    def again(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        norm: Norm | None,
        of_x: Statistics | None,
        segments: int,
    ) -> tuple[Tensor, Statistics | None] | None:
        """As `with_statistics`, but None, and nothing done, where the call is of another kind, or
        converts.
        """
        if self.converts or kind_of(x, weight, bias, norm, of_x, segments) != self.kind:
            return None
        if self.converts_x:
            x = channels_last(x.to(self._dtype))
        if norm is None:
            return self(x, weight, bias, NormTensors(), None, of_x)
        mean, var, gamma, beta, training, *_ = norm
        if mean is None or var is None:
            return self(x, weight, bias, NormTensors(None, None, gamma, beta), None, of_x)
        if not training:
            norm_ops.settle_for(mean)
            known = NormTensors(mean.reshape(1, -1), var.reshape(1, -1), gamma, beta)
            return self(x, weight, bias, known, None, of_x)
        running = (mean, var) if self.count else None
        if running is not None:
            check_apart(x, mean, var, gamma, beta)
        norms = NormTensors(None, None, gamma, beta)
        return self(x, weight, bias, norms, running, of_x)


class _Call:
    """One call; outputs: once it has run."""

    __slots__ = ("kind", "mean", "of_x", "outputs", "running", "var")

    def __init__(
        self,
        kind: Repeated,
        of_x: Statistics | None,
        running: tuple[Tensor, Tensor] | None,
        mean: Tensor | None,
        var: Tensor | None,
    ) -> None:
        """mean, var: the statistics that the norm is by, where it is not by those of x."""
        self.kind, self.of_x, self.running = kind, of_x, running
        self.mean, self.var = mean, var
        self.outputs: Outputs | None = None

    def run(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, gamma: Tensor | None,
        beta: Tensor | None,
    ) -> Outputs:  # fmt: skip
        kind = self.kind
        norm = NormTensors(self.mean, self.var, gamma, beta)
        a = Forward(x, weight, bias, norm, kind.spec, kind.keep_z)
        beside = Companions(self.of_x, self.running, kind.momentum, kind.average, kind.segments)
        if kind.plan is None or not kind.plan.is_current():
            kind.plan = Plan(a, beside)
        self.outputs = fused.forward(a, kind.backend, companions=beside, plan=kind.plan)
        return self.outputs


class _Fused(Function):
    """What it gives is y alone: the rest has no gradient, and waits in the call."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, gamma: Tensor | None,
        beta: Tensor | None, call: _Call,
    ) -> Tensor:  # fmt: skip
        y, mean, var, z, rows, _ = call.run(x, weight, bias, gamma, beta)
        kind = call.kind
        if not kind.spec.training:
            mean, var = norm_ops.snapshot(call.mean, call.var)
        ctx.set_materialize_grads(False)
        kept = y if kind.keeps_output else None
        ctx.save_for_backward(x, kept, z, weight, rows, mean, var, gamma, beta)
        ctx.kind = kind
        return y

    @staticmethod
    def backward(ctx: Any, g_y: Tensor | None) -> tuple[Tensor | None, ...]:
        if g_y is None:
            return _NONE
        kind, needed = ctx.kind, ctx.needs_input_grad
        needs = [False] * len(_GIVEN)
        for i, (node, _) in zip(kind.given, ctx.next_functions, strict=True):
            needs[i] = needed[i] and will_run(node)
        need_x, need_weight, need_bias, need_gamma, need_beta = needs
        x, y, z, weight, rows, mean, var, gamma, beta = ctx.saved_tensors
        a = Backward(
            g_y, x, y, z, weight, NormTensors(mean, var, gamma, beta), kind.spec, need_x,
            need_weight, need_bias, need_gamma or need_beta,
        )  # fmt: skip
        if torch.is_grad_enabled() or not dispatch.is_eager(g_y):
            found = all_gradients(a, kind.backend)
        else:
            found = fused.backward(a, kind.backend, rows=rows, plan=kind.plan)
        g_x, g_weight, g_bias, g_gamma, g_beta = found
        if need_weight and g_weight.dtype is not weight.dtype:
            g_weight = g_weight.to(weight.dtype)
        return (
            g_x if need_x else None, g_weight if need_weight else None,
            g_bias if need_bias else None, g_gamma if need_gamma else None,
            g_beta if need_beta else None, None,
        )  # fmt: skip


_GIVEN = "x", "weight", "bias", "gamma", "beta"
_NONE = (*(None for _ in _GIVEN), None)
_apply = plain_apply(_Fused)
