"""norm_act_conv by Triton's convolutions: with those for GPUs with TMA statistics travel with a
tensor.

The convolution leaves the statistics of its output in pieces, one for each of its tiles, and the
norm that follows merges them as it normalises: no pass over the tensor takes them, and no launch of
its own merges them or moves the running ones. The data gradient leaves the sums of the norm's
gradient in the same way. The kernels of few channels and plain products leave none.
"""

from __future__ import annotations

from functools import cache
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
from fastgan.ops.core.tensors import channels_last, own_output
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

    def of_norm(
        self, running: tuple[Tensor, Tensor] | None, momentum: float, average: bool, segments: int
    ) -> Companions:
        """These of a norm's call; without the statistics of x where they are of other slices."""
        of_x = self.of_x
        fits = of_x is not None and of_x.counts.shape[0] == segments
        return Companions(of_x if fits else None, running, momentum, average, self.segments)


class Outputs(NamedTuple):
    """Of one call; the last four are for the backward and for the next block."""

    y: Tensor
    mean: Tensor | None
    var: Tensor | None
    z: Tensor | None
    rows: Tensor | None  # of the norm, as the data gradient reads it
    counts: Tensor | None
    means: Tensor | None
    m2s: Tensor | None


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


def forward(a: Forward, backend: str, *, companions: Companions) -> Outputs:
    """x channels-last, as y and z are; a weight of any dtype."""
    with eager_call():
        return _forward(a, backend, companions)


def _forward(a: Forward, backend: str, companions: Companions) -> Outputs:
    x, weight, bias, norm, spec, keep_z = a
    mean = var = rows = statistics = None
    if spec.training and companions.of_x is not None:
        launchers, act = _launchers(), _activation(spec.before)
        z, mean, var, rows = launchers.norm_input(
            x, companions.of_x, norm.gamma, norm.beta, spec.eps, act, companions.running,
            companions.momentum, companions.average,
        )  # fmt: skip
        if companions.running is not None:  # so that autograd sees it, as in norm_act
            torch.autograd.graph.increment_version(companions.running)
    elif spec.training:
        launchers = dispatch.kernels(backend, "norm_act", x)
        z, mean, var = launchers.norm_act_train(x, norm.gamma, norm.beta, *spec.norm)
    else:
        z = kernels.recompute(x, norm, spec, backend)
    geometry = _geometry(a)
    if geometry is not None:
        y, statistics = _launchers().tma_convolve(
            z, weight, bias, geometry, _activation(spec.after), companions.segments
        )
    else:
        weight = _as_read(x, weight, spec.geometry)
        y = conv.forward(z, weight, bias, spec.geometry, *spec.after, triton=True)
    kept = z if keep_z and z is not x else None
    return Outputs(own_output(y), mean, var, kept, rows, *(statistics or (None, None, None)))


def backward(
    a: Backward, backend: str, *, rows: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `kernels.backward`. rows: of the norm, from the forward pass, unless None."""
    geometry = _geometry(a)
    if geometry is None:
        weight = _as_read(a.x, a.weight, a.spec.geometry)
        return kernels.backward(a._replace(weight=weight), backend, triton=True)
    with eager_call():
        return _backward(a, geometry, backend, rows)


def _backward(
    a: Backward, geometry: Any, backend: str, rows: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    x, weight, norm, spec = a.x, a.weight, a.norm, a.spec
    launchers = _launchers()
    none = x.new_empty(0, dtype=torch.float32)
    g_x, g_weight, g_gamma, g_beta = x.new_empty(0), x.new_empty(0), none, none
    dy, g_bias = kernels.through_output(a, backend)
    dy = channels_last(dy.to(x.dtype))
    if rows is None and norm.mean is not None and norm.var is not None:
        known = norm.mean, norm.var, norm.gamma, norm.beta, spec.eps
        rows, _ = dispatch.module("fastgan.kernels.conv_block.forward").conv_rows(known, None)
    act = _activation(spec.before)
    if a.need_weight:
        z = launchers.form_input(x, rows, act) if a.z is None else a.z
        g_weight = launchers.tma_weight_gradient(z, dy, weight, geometry)
    if a.need_x or a.need_affine:
        g_x, *sums = launchers.tma_data_gradient(dy, weight, geometry, x, rows, act)
        if norm.mean is not None and spec.training:
            g_gamma, g_beta = launchers.norm_gradient_(
                g_x, x, norm.var, rows, *sums, spec.eps, a.need_affine
            )
        elif norm.mean is not None and a.need_affine:
            partials = dispatch.module("fastgan.kernels.conv_block.partials")
            *_, g_gamma, g_beta = partials.conv_norm_gradients(
                *sums, norm.var, norm.gamma, spec.eps
            )
    return g_x, g_weight, g_bias, g_gamma, g_beta


def _geometry(a: Forward | Backward) -> Any:
    """The TMA kernels' geometry of a call's convolution; None where they do not run it."""
    x = a.x
    return tma.served_geometry(x.shape, x.dtype, x.device, a.weight.shape, a.spec.geometry)


def _as_read(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """A weight for the passes of x, which may round it themselves."""
    return weight if conv.reads_float32(x, weight, geometry, triton=True) else weight.to(x.dtype)


def _launchers() -> Any:
    return dispatch.module("fastgan.kernels.conv_block.tma")


@cache
def _activation(act: tuple[int, float]) -> Any:
    return dispatch.module("fastgan.kernels.conv_block.forward").Activation(*act)
