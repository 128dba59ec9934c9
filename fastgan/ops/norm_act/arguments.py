"""What the operators of norm_act are called with, and what they hold it to.

Field by field these are the arguments of the raw kernels.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

from torch import Tensor

from fastgan.ops.core import raw_checks
from fastgan.ops.core.arguments import Size
from fastgan.ops.core.tensors import check_segments


class Spec(NamedTuple):
    """What is no tensor of the op."""

    eps: float
    activation: int
    negative_slope: float
    segments: Size
    act_first: bool


class Train(NamedTuple):
    x: Tensor
    weight: Tensor | None
    bias: Tensor | None
    spec: Spec


class Eval(NamedTuple):
    x: Tensor
    mean: Tensor
    var: Tensor
    weight: Tensor | None
    bias: Tensor | None
    spec: Spec


class Backward(NamedTuple):
    dz: Tensor
    x: Tensor
    mean: Tensor
    var: Tensor
    weight: Tensor | None
    bias: Tensor | None
    spec: Spec
    training: bool  # mean and var are those of x
    need_dx: bool
    need_dparams: bool


class Update(NamedTuple):
    running_mean: Annotated[Tensor, "Tensor(a!)"]
    running_var: Annotated[Tensor, "Tensor(b!)"]
    mean: Tensor
    var: Tensor
    momentum: float
    count: Size  # type: ignore[assignment]  # values that each mean and variance are of
    average: bool


class NormTensors(NamedTuple):
    """Of a norm before a convolution: statistics where they are known, and parameters."""

    mean: Tensor | None = None
    var: Tensor | None = None
    gamma: Tensor | None = None
    beta: Tensor | None = None


def check_train(a: Train | Eval | Backward) -> None:
    raw_checks.input("x", a.x)
    raw_checks.activations(activation=a.spec.activation)
    check_segments(a.spec.segments, a.x.shape[0])
    raw_checks.vectors(a.x.shape[1], a.x, weight=a.weight, bias=a.bias)


def check_eval(a: Eval | Backward) -> None:
    check_train(a)
    raw_checks.statistics(a.x, (1, a.spec.segments), mean=a.mean)
    raw_checks.statistics(a.x, (a.mean.shape[0],), var=a.var)


def check_backward(a: Backward) -> None:
    check_eval(a)
    raw_checks.sized("dz", a.dz, a.x.shape, a.x.dtype, a.x)


def check_update(a: Update) -> None:
    mean = a.mean
    raw_checks.input("mean", mean)
    raw_checks.statistics(mean, (mean.shape[0],), mean=mean, var=a.var)
    running = {"running_mean": a.running_mean, "running_var": a.running_var}
    raw_checks.vectors(mean.shape[1], mean, **running)
    if a.count < 2:
        raise ValueError(f"count: expected more than one value per channel, got {a.count}")
