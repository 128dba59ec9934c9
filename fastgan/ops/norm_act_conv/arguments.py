"""What the operators of norm_act_conv are called with, and what they hold it to."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from fastgan.ops.conv.geometry import Geometry
from fastgan.ops.core import raw_checks
from fastgan.ops.core.activation import is_identity
from fastgan.ops.core.arguments import Size
from fastgan.ops.core.tensors import check_segments
from fastgan.ops.norm_act import arguments as norm_act
from fastgan.ops.norm_act.arguments import NormTensors


class Norm(NamedTuple):
    """A batch norm that is still to be applied: the arguments of `norm_act` that concern it."""

    running_mean: Tensor | None = None
    running_var: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    training: bool = True
    momentum: float = 0.1
    eps: float = 1e-5
    segments: int = 1
    average_segments: bool = False


class Spec(NamedTuple):
    """What is no tensor of the op."""

    eps: float
    pre_activation: int
    pre_slope: float
    training: bool  # normalise by the statistics of x
    segments: Size
    geometry: Geometry
    activation: int
    slope: float

    @property
    def before(self) -> tuple[int, float]:
        return self.pre_activation, self.pre_slope

    @property
    def after(self) -> tuple[int, float]:
        return self.activation, self.slope

    @property
    def norm(self) -> norm_act.Spec:
        return norm_act.Spec(self.eps, *self.before, self.segments, act_first=False)


class Forward(NamedTuple):
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    norm: NormTensors  # without statistics in training, or where there is no norm
    spec: Spec
    keep_z: bool

    @property
    def has_prologue(self) -> bool:
        """Whether z is another tensor than x."""
        known, activated = self.norm.mean is not None, not is_identity(*self.spec.before)
        return self.spec.training or known or activated


class Backward(NamedTuple):
    g_y: Tensor
    x: Tensor
    y: Tensor | None  # None where the activation after the convolution is the identity
    z: Tensor | None  # None where it is not kept
    weight: Tensor
    norm: NormTensors
    spec: Spec
    need_x: bool
    need_weight: bool
    need_bias: bool
    need_affine: bool


def check_forward(a: Forward) -> None:
    _check(a, a.bias)


def _check(a: Forward | Backward, bias: Tensor | None) -> tuple[int, ...]:
    shape = raw_checks.convolution(a.x, a.weight, a.spec.geometry)
    raw_checks.norm(a.x, *a.norm)
    codes = {"pre_activation": a.spec.pre_activation, "activation": a.spec.activation}
    raw_checks.activations(**codes)
    raw_checks.vectors(shape[1], a.x, bias=bias)
    if a.spec.training:
        check_segments(a.spec.segments, a.x.shape[0])
    return shape


def check_backward(a: Backward) -> None:
    shape = _check(a, None)
    raw_checks.sized("g_y", a.g_y, shape, a.x.dtype, a.x)
    raw_checks.sized("y", a.y, shape, a.x.dtype, a.x)
    raw_checks.sized("z", a.z, a.x.shape, a.x.dtype, a.x)
