"""What the operators of bias_act are called with, and what they hold it to.

Field by field these are the arguments of the raw kernels.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from fastgan.ops.core import raw_checks


class Forward(NamedTuple):
    x: Tensor
    bias: Tensor | None
    activation: int
    negative_slope: float


class Backward(NamedTuple):
    dz: Tensor
    z: Tensor
    activation: int
    negative_slope: float
    need_dbias: bool


def check_forward(a: Forward) -> None:
    raw_checks.input("x", a.x)
    raw_checks.activations(activation=a.activation)
    raw_checks.vectors(a.x.shape[1], a.x, bias=a.bias)


def check_backward(a: Backward) -> None:
    raw_checks.input("z", a.z)
    raw_checks.activations(activation=a.activation)
    raw_checks.sized("dz", a.dz, a.z.shape, a.z.dtype, a.z)
