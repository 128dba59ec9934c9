"""What the operators of conv_block are called with, and what they hold it to.

Field by field these are the arguments of the raw kernels.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from fastgan.ops.conv.geometry import Geometry
from fastgan.ops.core import raw_checks
from fastgan.ops.core.arguments import Size
from fastgan.ops.core.tensors import check_segments, stat_dtype
from fastgan.ops.norm_act.arguments import NormTensors


class Spec(NamedTuple):
    """What is no tensor of the op."""

    eps: float
    pre_activation: int
    pre_slope: float
    geometry: Geometry
    activation: int
    slope: float
    segments: Size  # 0: without statistics of y


class Forward(NamedTuple):
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    norm: NormTensors
    spec: Spec


class Backward(NamedTuple):
    g_y: Tensor
    g_mean: Tensor | None
    g_var: Tensor | None
    x: Tensor
    y: Tensor
    y_mean: Tensor
    weight: Tensor
    norm: NormTensors
    spec: Spec
    need_x: bool  # or of the norm's tensors
    need_weight: bool
    need_bias: bool


def check_forward(a: Forward) -> None:
    _check(a, a.bias)


def _check(a: Forward | Backward, bias: Tensor | None) -> tuple[int, ...]:
    spec = a.spec
    shape = raw_checks.convolution(a.x, a.weight, spec.geometry)
    raw_checks.norm(a.x, *a.norm)
    raw_checks.activations(pre_activation=spec.pre_activation, activation=spec.activation)
    raw_checks.vectors(shape[1], a.x, bias=bias)
    if spec.segments:
        check_segments(spec.segments, shape[0])
    return shape


def check_backward(a: Backward) -> None:
    shape, segments = _check(a, None), a.spec.segments
    raw_checks.sized("y", a.y, shape, a.x.dtype, a.x)
    raw_checks.sized("g_y", a.g_y, shape, a.x.dtype, a.x)
    if segments:
        for name in ("y_mean", "g_mean", "g_var"):
            rows = segments, shape[1]
            raw_checks.sized(name, getattr(a, name), rows, stat_dtype(a.x), a.x)
