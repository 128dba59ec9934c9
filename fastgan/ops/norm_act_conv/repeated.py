"""Plain eager calls of norm_act_conv by the kernels whose statistics travel (`fused`): one autograd
function around all of it, and what makes a call that was found right again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from fastgan.ops.core.activation import is_identity
from fastgan.ops.core.library import plain_apply, will_run
from fastgan.ops.core.tensors import channels_last, check_apart, lies
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
) -> tuple[object, ...]:
    """What of the arguments of `with_statistics` its checks and its plan depend on, beside the
    options that a layer has for good, and backend, autocast and mode of gradients.
    """
    own: tuple[object, ...] = ()
    if norm is not None:
        mean, var, gamma, beta, *settings = norm
        running = mean is not None and mean.requires_grad, var is not None and var.requires_grad
        own = (*settings, *running, *map(lies, (mean, var, gamma, beta)))
    pieces = None if of_x is None else of_x.means.shape
    return segments, pieces, lies(x), lies(weight), lies(bias), *own


class Repeated:
    """Calls alike (see `kind_of`): their arguments are right, and what follows is decided.

    Attributes:
        spec, keep_z, backend: of `Forward`, and of what runs it.
        segments: of the statistics of y that are wanted; 0: none.
        given: the places of `_GIVEN` that are not None.
        momentum, count, average: of the running statistics, as `norm_act.autograd.move` takes them.
        converts: whether other tensors than x have to be converted for the kernels.
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
        self.segments, self.momentum = segments, momentum
        self.count, self.average = count, average
        x = given[0]
        assert x is not None
        self._dtype = x.dtype
        self.given = [i for i, t in enumerate(given) if t is not None]
        self.plan: Plan | None = None
        self.kind: tuple[object, ...] = ()
        self.converts = False
        self._apart: tuple[int, ...] = ()  # addresses that were found apart from one another

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
        if running is not None:
            norm_ops.settle_for(running[0])
        if of_x is not None and of_x.counts.shape[0] != self.spec.segments:
            of_x = None  # of other slices than the norm's
        companions = Companions(of_x, running, self.momentum, self.average, self.segments)
        call = _Call(self, companions, norm)
        given = x, weight, bias, norm.gamma, norm.beta
        if torch.is_grad_enabled():
            y: Tensor = _apply(*given, call)
            outputs = call.outputs
        else:
            outputs = call.run(*given)
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
        fresh: bool,
    ) -> tuple[Tensor, Statistics | None] | None:
        """As `with_statistics`, but None, and nothing done, where the call is of another kind, or
        converts.

        Args:
            fresh: x shares memory with no other argument.
        """
        if self.converts or kind_of(x, weight, bias, norm, of_x, segments) != self.kind:
            return None
        if x.dtype is not self._dtype:
            x = x.to(self._dtype)
        x = channels_last(x)
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
            held = (mean, var) if gamma is None or beta is None else (mean, var, gamma, beta)
            apart = tuple([t.data_ptr() for t in held])
            if not fresh or apart != self._apart:
                check_apart(x, mean, var, gamma, beta)
                self._apart = apart
        norms = NormTensors(None, None, gamma, beta)
        return self(x, weight, bias, norms, running, of_x)


class _Call:
    """One call; outputs: once it has run."""

    __slots__ = ("companions", "kind", "known", "outputs")

    def __init__(self, kind: Repeated, companions: Companions, norm: NormTensors) -> None:
        self.kind, self.companions, self.known = kind, companions, (norm.mean, norm.var)
        self.outputs: Outputs | None = None

    def run(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, gamma: Tensor | None,
        beta: Tensor | None,
    ) -> Outputs:  # fmt: skip
        kind = self.kind
        a = Forward(x, weight, bias, NormTensors(*self.known, gamma, beta), kind.spec, kind.keep_z)
        if kind.plan is None:
            kind.plan = Plan(a, self.companions)
        self.outputs = fused.forward(a, kind.backend, companions=self.companions, plan=kind.plan)
        return self.outputs


class _Fused(Function):
    """What it gives is y alone: the rest has no gradient, and waits in the call."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        *given, call = args
        x, weight, _, gamma, beta = given
        ctx.set_materialize_grads(False)
        y, mean, var, z, rows, *_ = call.run(*given)
        spec = call.kind.spec
        if not spec.training:
            mean, var = norm_ops.snapshot(*call.known)
        kept = None if is_identity(*spec.after) else y
        ctx.save_for_backward(x, kept, z, weight, rows, mean, var, gamma, beta)
        ctx.kind = call.kind
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
        x, y, z, weight, rows, *norm = ctx.saved_tensors
        a = Backward(
            g_y, x, y, z, weight, NormTensors(*norm), kind.spec, need_x, need_weight, need_bias,
            need_gamma or need_beta,
        )  # fmt: skip

        def run(a: Backward, backend: str) -> fused.Gradients:
            return fused.backward(a, backend, rows=rows, plan=kind.plan)

        found = all_gradients(a, kind.backend, run)
        return (*[g if need else None for g, need in zip(found, needs, strict=True)], None)


_GIVEN = "x", "weight", "bias", "gamma", "beta"
_NONE = (*(None for _ in _GIVEN), None)
_apply = plain_apply(_Fused)
