"""The raw norm_act_conv of a backend: its norm_act kernels around the convolutions of `conv`.

The `reference` backend is the op's definition instead. No autograd here.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from fastgan.ops import conv
from fastgan.ops.conv.geometry import Geometry
from fastgan.ops.core import dispatch
from fastgan.ops.core.activation import LEAKY_RELU, is_identity
from fastgan.ops.core.tensors import dense_like, own_output, stat_dtype
from fastgan.ops.norm_act_conv import reference


class Spec(NamedTuple):
    """What is no tensor of the op, in the order of its schema."""

    eps: float
    pre_activation: int
    pre_slope: float
    training: bool  # normalise by the statistics of x
    segments: int
    geometry: Geometry
    activation: int
    slope: float


# mean, var, gamma, beta; mean and var are absent in training, or without a norm.
Norm = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


class Needs(NamedTuple):
    """Which gradients are asked for."""

    x: bool
    weight: bool
    bias: bool
    affine: bool


def has_prologue(norm: Norm, spec: Spec) -> bool:
    """Whether z is another tensor than x."""
    activated = not is_identity(spec.pre_activation, spec.pre_slope)
    return spec.training or norm[0] is not None or activated


def reads_float32(x: Tensor, weight: Tensor, spec: Spec, backend: str) -> bool:
    """Whether the kernels take a float32 weight for a half-precision x as it is."""
    if weight.dtype is x.dtype or dispatch.resolve(backend, x) != "cpu":
        return False
    return conv.reads_float32(x, weight, spec.geometry)


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, norm: Norm, spec: Spec, backend: str
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    """(y, mean, var, z); mean and var are those given or, in training, those of x."""
    if dispatch.resolve(backend, x) == "reference":
        y, mean, var, z = reference.forward(x, weight, bias, *norm, *spec)
        return own_output(y), mean, var, z if has_prologue(norm, spec) else x
    z, mean, var = x, *norm[:2]
    if spec.training:
        kernels = dispatch.kernels(backend, "norm_act", x)
        z, mean, var = kernels.norm_act_train(x, *norm[2:], *_norm_spec(spec))
    else:
        z = recompute(x, norm, spec, backend)
    y = conv.forward(z, weight, bias, spec.geometry, spec.activation, spec.slope)
    return own_output(y), mean, var, z


def recompute(x: Tensor, norm: Norm, spec: Spec, backend: str) -> Tensor:
    """z = act(norm(x)), the input of the convolution, by statistics that are known."""
    if norm[0] is not None:
        kernels = dispatch.kernels(backend, "norm_act", x)
        z: Tensor = kernels.norm_act_eval(x, *norm, *_norm_spec(spec))
        return z
    before = spec.pre_activation, spec.pre_slope
    if is_identity(*before):
        return x
    z = dispatch.kernels(backend, "bias_act", x).bias_act_forward(x, None, *before)
    return z


def backward(
    g_y: Tensor,
    x: Tensor,
    y: Tensor | None,
    z: Tensor | None,
    weight: Tensor,
    norm: Norm,
    spec: Spec,
    needs: Needs,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of (x, weight, bias, gamma, beta); those not needed may come back empty.

    y is None where the activation after the convolution is the identity, z where it is not kept.
    """
    if dispatch.resolve(backend, x) == "reference":
        saved = g_y if y is None else y
        return reference.backward(g_y, x, saved, weight, *norm, *spec, needs)
    g_x, g_weight = x.new_empty(0), x.new_empty(0)
    g_gamma, g_beta = (x.new_empty(0, dtype=stat_dtype(x)) for _ in range(2))
    dy, g_bias = _through_output(g_y, y, spec, needs.bias, backend)
    if needs.weight:
        z = recompute(x, norm, spec, backend) if z is None else z
        g_weight = conv.backward_weight(dy, z, weight, spec.geometry)
    if needs.x or needs.affine:
        dz = conv.backward_input(dy, x, weight, spec.geometry)
        if norm[0] is not None:
            kernels = dispatch.kernels(backend, "norm_act", x)
            g_x, g_gamma, g_beta = kernels.norm_act_backward(
                dz, x, *norm, *_norm_spec(spec), spec.training, needs.x, needs.affine
            )
        else:
            g_x = _through_input(dz, x, z, spec, backend)
    return g_x, g_weight, g_bias, g_gamma, g_beta


def _norm_spec(spec: Spec) -> tuple[float, int, float, int, bool]:
    return spec.eps, spec.pre_activation, spec.pre_slope, spec.segments, False


def _through_output(
    g_y: Tensor, y: Tensor | None, spec: Spec, need_bias: bool, backend: str
) -> tuple[Tensor, Tensor]:
    """The gradient of conv + bias and its sum, from that of y."""
    if y is not None:
        kernels = dispatch.kernels(backend, "bias_act", y)
        after = spec.activation, spec.slope
        dy, g_bias = kernels.bias_act_backward(dense_like(g_y, y), y, *after, need_bias)
        return dy, g_bias
    dtype = stat_dtype(g_y)
    if not need_bias:
        return g_y, g_y.new_empty(0, dtype=dtype)
    return g_y, g_y.sum([0, *range(2, g_y.dim())], dtype=dtype)


def _through_input(dz: Tensor, x: Tensor, z: Tensor | None, spec: Spec, backend: str) -> Tensor:
    """The gradient of x through an activation without a norm, whose kernel reads its output."""
    before = spec.pre_activation, spec.pre_slope
    if is_identity(*before):
        return dz
    if before[0] == LEAKY_RELU:
        z = x  # of its output only the sign is read, which is that of x
    elif z is None:
        z = recompute(x, (None,) * 4, spec, backend)
    kernels = dispatch.kernels(backend, "bias_act", x)
    g_x: Tensor = kernels.bias_act_backward(dz, z, *before, False)[0]
    return g_x
