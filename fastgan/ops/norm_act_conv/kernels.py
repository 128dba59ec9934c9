"""The raw norm_act_conv of a backend: its norm_act kernels around the convolutions of `conv`.

The `reference` backend is the op's definition instead. No autograd here.
"""

from __future__ import annotations

from torch import Tensor

from fastgan.ops import conv
from fastgan.ops.core import dispatch
from fastgan.ops.core.activation import LEAKY_RELU, is_identity
from fastgan.ops.core.memory_format import dense_like
from fastgan.ops.core.tensors import own_output, stat_dtype
from fastgan.ops.norm_act.arguments import NormTensors
from fastgan.ops.norm_act_conv import reference
from fastgan.ops.norm_act_conv.arguments import Backward, Forward, Spec


def reads_float32(x: Tensor, weight: Tensor, spec: Spec, backend: str) -> bool:
    """Whether the kernels take a float32 weight for a half-precision x as it is."""
    if weight.dtype is x.dtype or dispatch.resolve(backend, x) != "cpu":
        return False
    return conv.reads_float32(x, weight, spec.geometry)


def forward(a: Forward, backend: str) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """(y, mean, var, z): mean and var those of x in training, z where it is to be kept and is not
    x itself.
    """
    x, weight, bias, norm, spec, keep_z = a
    mean = var = None
    if dispatch.resolve(backend, x) == "reference":
        y, mean, var, z = reference.forward(a)
        keep_z = keep_z and a.has_prologue
    else:
        if spec.training:
            kernels = dispatch.kernels(backend, "norm_act", x)
            z, mean, var = kernels.norm_act_train(x, norm.gamma, norm.beta, *spec.norm)
        else:
            z = recompute(x, norm, spec, backend)
        y = conv.forward(z, weight, bias, spec.geometry, *spec.after)
    return own_output(y), mean, var, z if keep_z and z is not x else None


def recompute(x: Tensor, norm: NormTensors, spec: Spec, backend: str) -> Tensor:
    """z = act(norm(x)), the input of the convolution, by statistics that are known."""
    if norm.mean is not None:
        kernels = dispatch.kernels(backend, "norm_act", x)
        z: Tensor = kernels.norm_act_eval(x, *norm, *spec.norm)
        return z
    if is_identity(*spec.before):
        return x
    z = dispatch.kernels(backend, "bias_act", x).bias_act(x, None, *spec.before)
    return z


def backward(
    a: Backward, backend: str, triton: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of (x, weight, bias, gamma, beta); those not needed may come back empty.

    triton: convolve by its kernels.
    """
    if dispatch.resolve(backend, a.x) == "reference":
        return reference.backward(a)
    x, z, norm, spec = a.x, a.z, a.norm, a.spec
    g_x, g_weight = x.new_empty(0), x.new_empty(0)
    g_gamma, g_beta = (x.new_empty(0, dtype=stat_dtype(x)) for _ in range(2))
    dy, g_bias = through_output(a, backend)
    if a.need_weight:
        z = recompute(x, norm, spec, backend) if z is None else z
        g_weight = conv.backward_weight(dy, z, a.weight, spec.geometry, triton)
    if a.need_x or a.need_affine:
        dz = conv.backward_input(dy, x, a.weight, spec.geometry, triton)
        if norm.mean is not None:
            kernels = dispatch.kernels(backend, "norm_act", x)
            g_x, g_gamma, g_beta = kernels.norm_act_backward(
                dz, x, *norm, *spec.norm, spec.training, a.need_x, a.need_affine
            )
        else:
            g_x = _through_input(dz, x, z, spec, backend)
    return g_x, g_weight, g_bias, g_gamma, g_beta


def through_output(a: Backward, backend: str) -> tuple[Tensor, Tensor]:
    """The gradient of conv + bias and its sum, from that of y."""
    g_y, y = a.g_y, a.y
    if y is not None:
        kernels = dispatch.kernels(backend, "bias_act", y)
        dy, g_bias = kernels.bias_act_backward(dense_like(g_y, y), y, *a.spec.after, a.need_bias)
        return dy, g_bias
    dtype = stat_dtype(g_y)
    if not a.need_bias:
        return g_y, g_y.new_empty(0, dtype=dtype)
    return g_y, g_y.sum([0, *range(2, g_y.dim())], dtype=dtype)


def _through_input(dz: Tensor, x: Tensor, z: Tensor | None, spec: Spec, backend: str) -> Tensor:
    """The gradient of x through an activation without a norm, whose kernel reads its output."""
    if is_identity(*spec.before):
        return dz
    if spec.pre_activation == LEAKY_RELU:
        z = x  # of its output only the sign is read, which is that of x
    elif z is None:
        z = recompute(x, NormTensors(), spec, backend)
    kernels = dispatch.kernels(backend, "bias_act", x)
    g_x: Tensor = kernels.bias_act_backward(dz, z, *spec.before, False)[0]
    return g_x
