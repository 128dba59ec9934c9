"""norm_act_conv by Triton's convolutions: with those for GPUs with TMA statistics travel with a
tensor.

The convolution leaves the statistics of its output in pieces, one for each of its tiles, and the
norm that follows merges them as it normalises: no pass over the tensor takes them, and no launch of
its own merges them or moves the running ones. The data gradient leaves the sums of the norm's
gradient in the same way. The kernels of few channels and plain products leave none.
"""

from __future__ import annotations

from functools import cache, cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastgan.kernels.core.packed import eager_call
from fastgan.ops import conv
from fastgan.ops.conv import tma
from fastgan.ops.conv.algorithms import is_triton
from fastgan.ops.conv.geometry import Geometry
from fastgan.ops.conv.problem import FORWARD, Problem, describe
from fastgan.ops.core import dispatch
from fastgan.ops.core.tensors import channels_last, is_channels_last, own_output
from fastgan.ops.norm_act_conv import kernels
from fastgan.ops.norm_act_conv.arguments import Backward, Forward


class Statistics(NamedTuple):
    """Those of a tensor, as its convolution left them: of slices of the batch, in pieces."""

    counts: Tensor  # (segments, pieces)
    means: Tensor  # (segments, pieces, C)
    m2s: Tensor  # (segments, pieces, C): sums of squares about the piece's mean


class Companions(NamedTuple):
    """What comes and goes with the tensors of one call.

    Attributes:
        of_x: the statistics of x, or None.
        running, momentum, average: the running statistics, moved where those of x are merged.
        segments: of the statistics of y that are wanted; 0: none.
    """

    of_x: Statistics | None = None
    running: tuple[Tensor, Tensor] | None = None
    momentum: float = 0.0
    average: bool = False
    segments: int = 0


class Outputs(NamedTuple):
    """Of one call; the last two are for the backward and for the next block."""

    y: Tensor
    mean: Tensor | None
    var: Tensor | None
    z: Tensor | None
    rows: Tensor | None  # of the norm, as the data gradient reads it
    statistics: Statistics | None  # of y


def serves(
    x: tuple[int, ...], dtype: torch.dtype, device: torch.device, weight: tuple[int, ...],
    geometry: Geometry,
) -> bool:  # fmt: skip
    """Whether a convolution, given its shapes, runs here; x in channels-last memory."""
    if len(x) != 4 or dispatch.why_not("triton", device.type, dtype) is not None:
        return False
    if tma.served_geometry(x, dtype, device, weight, geometry) is not None:
        return True
    return is_triton(_described(x, dtype, weight, geometry)._replace(device=device.type))


@cache
def _described(
    x: tuple[int, ...], dtype: torch.dtype, weight: tuple[int, ...], geometry: Geometry
) -> Problem:
    like = torch.empty((x[0], *x[2:], x[1]), dtype=dtype, device="meta").movedim(-1, 1)
    return describe(FORWARD, like, torch.empty(weight, dtype=dtype, device="meta"), geometry)


def forward(
    a: Forward, backend: str, *, companions: Companions, plan: Plan | None = None
) -> Outputs:
    """x channels-last, as y and z are; a weight of any dtype; the rest contiguous.

    Args:
        plan: of calls of this kind, where there is one.
    """
    plan = plan or Plan(a, companions)
    with eager_call():
        return _forward(a, backend, companions, plan)


def _forward(a: Forward, backend: str, companions: Companions, plan: Plan) -> Outputs:
    x, weight, bias, norm, spec, keep_z = a
    mean = var = rows = statistics = None
    if plan.norm_input is not None:
        z, mean, var, rows = plan.norm_input(
            x, companions.of_x, norm.gamma, norm.beta, companions.running, companions.momentum
        )
    elif spec.training:
        launchers = dispatch.kernels(backend, "norm_act", x)
        z, mean, var = launchers.norm_act_train(x, norm.gamma, norm.beta, *spec.norm)
    else:
        z = kernels.recompute(x, norm, spec, backend)
    if plan.product is not None:
        y, *pieces = plan.product(z, weight, bias)
        statistics = Statistics(*pieces) if companions.segments else None
    else:
        weight = _as_read(x, weight, spec.geometry)
        y = own_output(conv.forward(z, weight, bias, spec.geometry, *spec.after, triton=True))
    kept = z if keep_z and z is not x else None
    return Outputs(y, mean, var, kept, rows, statistics)


Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def backward(
    a: Backward, backend: str, *, rows: Tensor | None, plan: Plan | None = None
) -> Gradients:
    """As `kernels.backward`; what is not needed may be None.

    Args:
        rows: of the norm, from the forward pass, unless None.
        plan: of the forward pass, where there is one.
    """
    plan = plan or Plan(a)
    if plan.geometry is None:
        weight = _as_read(a.x, a.weight, a.spec.geometry)
        return kernels.backward(a._replace(weight=weight), backend, triton=True)
    with eager_call():
        return _backward(a, backend, rows, plan)


def _backward(a: Backward, backend: str, rows: Tensor | None, plan: Plan) -> Gradients:
    x, norm, spec = a.x, a.norm, a.spec
    g_x = g_weight = g_bias = g_gamma = g_beta = None
    dy = a.g_y
    if a.y is not None or a.need_bias:
        dy, g_bias = kernels.through_output(a, backend)
    if dy.dtype is not x.dtype or not is_channels_last(dy):
        dy = channels_last(dy.to(x.dtype))
    if rows is None and norm.mean is not None and norm.var is not None:
        known = norm.mean, norm.var, norm.gamma, norm.beta, spec.eps
        rows, _ = dispatch.module("fastgan.kernels.conv_block.forward").conv_rows(known, None)
    if a.need_weight:
        z = plan.launchers.form_input(x, rows, plan.before) if a.z is None else a.z
        g_weight = plan.weight_gradient(z, dy, a.weight)
    if a.need_x or a.need_affine:
        g_x, _, *sums = plan.data_gradient(dy, a.weight, None, x, rows)
        if norm.mean is not None and spec.training:
            through = plan.norm_gradient(sums[0].shape[1])
            g_gamma, g_beta = through(g_x, x, norm.var, rows, *sums, a.need_affine)
        elif norm.mean is not None and a.need_affine:
            partials = dispatch.module("fastgan.kernels.conv_block.partials")
            *_, g_gamma, g_beta = partials.conv_norm_gradients(
                *sums, norm.var, norm.gamma, spec.eps
            )
    return g_x, g_weight, g_bias, g_gamma, g_beta


def _as_read(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """A weight for the passes of x, which may round it themselves."""
    return weight if conv.reads_float32(x, weight, geometry, triton=True) else weight.to(x.dtype)


class Plan:
    """What calls of one kind decide by shapes, dtypes and options, once for all: their launchers.

    Args:
        a: one of the calls.
        companions: those of a forward pass.
    """

    def __init__(self, a: Forward | Backward, companions: Companions | None = None) -> None:
        x, spec, companions = a.x, a.spec, companions or Companions()
        self._shape, self._of = x.shape, (x.dtype, x.device)
        self._spec, self._wanted = spec, companions.segments
        # Slices of x whose rows the data gradient reads; 0: there is no norm.
        self._segments = spec.segments if spec.training or a.norm.mean is not None else 0
        self.geometry = tma.served_geometry(
            x.shape, x.dtype, x.device, a.weight.shape, spec.geometry
        )  # None where TMA's kernels do not run it
        self.launchers: Any = None
        self.norm_input: Any = None
        if self.geometry is not None or companions.of_x is not None:
            self.launchers = dispatch.module("fastgan.kernels.conv_block.tma")
            forms = dispatch.module("fastgan.kernels.conv_block.forward")
            self.before, self._after = forms.Activation(*spec.before), forms.Activation(*spec.after)
        if spec.training and companions.of_x is not None:
            self.norm_input = self.launchers.NormInput(
                x.shape, *companions.of_x.means.shape[:2], spec.eps, self.before, companions.average
            )

    @cached_property
    def product(self) -> Any:
        if self.geometry is None:
            return None
        return self.launchers.product_of(self.geometry, *self._of, self._after, self._wanted)

    @cached_property
    def data_gradient(self) -> Any:
        return self.launchers.data_gradient_of(
            self.geometry, *self._of, self.before, self._segments
        )

    @cached_property
    def weight_gradient(self) -> Any:
        return self.launchers.weight_gradient_of(self.geometry, *self._of)

    def norm_gradient(self, partials: int) -> Any:
        """Of sums in so many partials, as the data gradient leaves them."""
        if self._norm_gradient is None:
            self._norm_gradient = self.launchers.NormGradient(
                self._shape, self._segments, partials, self._spec.eps
            )
        return self._norm_gradient

    _norm_gradient: Any = None
