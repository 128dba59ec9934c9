"""The operators of norm_act_conv: what `torch.compile`, `torch.export` and transforms see."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgan.ops.bias_act.arguments import Backward as ActivationBackward
from fastgan.ops.bias_act.arguments import Forward as Activation
from fastgan.ops.bias_act.autograd import BACKWARD as ACTIVATION_BACKWARD
from fastgan.ops.bias_act.autograd import FORWARD as ACTIVATION
from fastgan.ops.conv.aten import reads_beyond
from fastgan.ops.conv.geometry import aten_arguments, output_shape
from fastgan.ops.conv.second_order import Arguments, gradients
from fastgan.ops.conv_block.reference import channels_last_empty
from fastgan.ops.core import dispatch
from fastgan.ops.core.activation import is_identity
from fastgan.ops.core.library import Gradients, Needs, Operator
from fastgan.ops.core.memory_format import dense_like, is_channels_last
from fastgan.ops.core.tensors import stat_dtype
from fastgan.ops.norm_act import arguments as norm_arguments
from fastgan.ops.norm_act import autograd as norm_ops
from fastgan.ops.norm_act import reference as norm_reference
from fastgan.ops.norm_act.arguments import NormTensors
from fastgan.ops.norm_act_conv import kernels, reference
from fastgan.ops.norm_act_conv.arguments import (
    Backward,
    Forward,
    Spec,
    check_backward,
    check_forward,
)

Five = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def run(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm: NormTensors,
    spec: Spec,
    keep_z: bool,
    running: tuple[Tensor, Tensor] | None,
    moving: tuple[float, int, bool],
    is_eager: bool,
) -> Tensor:
    """y = act(conv(pre_act(norm(x))) + bias); in training `running` moves to the statistics.

    weight is in any dtype: kernels that round it as they read it are given it as it is. moving:
    momentum, count and average, of `norm_act.autograd.move`. is_eager: `dispatch.is_eager` of the
    tensors.
    """
    backend = dispatch.setting()
    if not (is_eager and kernels.reads_float32(x, weight, spec, backend)):
        weight = weight.to(x.dtype)
    y, mean, var, _ = FORWARD(Forward(x, weight, bias, norm, spec, keep_z), backend, is_eager)
    if running is not None:
        norm_ops.move(running, mean, var, *moving, backend, is_eager)
    return y


def _forward(a: Forward, backend: str) -> tuple[Tensor, ...]:
    return _outputs(a, *kernels.forward(a, backend))


def _outputs(
    a: Forward, y: Tensor, mean: Tensor | None, var: Tensor | None, z: Tensor | None
) -> tuple[Tensor, ...]:
    """What is not there comes empty."""
    if mean is None or var is None:
        mean = a.x.new_empty(0, dtype=stat_dtype(a.x))
        var = mean.clone()
    return y, mean, var, a.x.new_empty(0) if z is None else z


# Without values, for tracing.


def _fake(a: Forward) -> tuple[Tensor, ...]:
    x, spec = a.x, a.spec
    shape = output_shape(x.shape, a.weight.shape, spec.geometry)
    y = channels_last_empty(x, list(shape)) if is_channels_last(x) else x.new_empty(shape)
    rows = (spec.segments, x.shape[1]) if spec.training else (0,)
    mean = x.new_empty(rows, dtype=stat_dtype(x))
    z = torch.empty_like(x) if a.keep_z and a.has_prologue else x.new_empty(0)
    return y, mean, torch.empty_like(mean), z


def _fake_backward(a: Backward) -> Five:
    x, weight, sums = a.x, a.weight, stat_dtype(a.x)
    of_affine = x.shape[1] if a.norm.mean is not None and a.need_affine else 0
    return (
        torch.empty_like(x) if a.need_x else x.new_empty(0),
        dense_like(weight.new_empty(weight.shape), weight) if a.need_weight else x.new_empty(0),
        x.new_empty(a.g_y.shape[1] if a.need_bias else 0, dtype=sums),
        x.new_empty(of_affine, dtype=sums),
        x.new_empty(of_affine, dtype=sums),
    )


# In PyTorch's operators, for transforms.


def _composite(a: Forward) -> tuple[Tensor, ...]:
    y, mean, var, z = reference.forward(a)
    y, *of_input = _outputs(a, y, mean, var, z if a.keep_z and a.has_prologue else None)
    return y, *(t.detach() for t in of_input)


def _composite_backward(a: Backward) -> Five:
    """y and z are those of these x and weight, on which they depend."""
    if a.spec.training:
        mean, var = norm_reference.moments(norm_reference.split(a.x, a.spec.segments))
        a = a._replace(norm=a.norm._replace(mean=mean, var=var))
    return reference.backward(a)


FORWARD = Operator(
    "norm_act_conv", Forward, "(Tensor y, Tensor mean, Tensor var, Tensor z)",
    check=check_forward, run=_forward, fake=_fake, composition=_composite, eager=kernels.forward,
)  # fmt: skip
BACKWARD = Operator(
    "norm_act_conv_backward", Backward,
    "(Tensor g_x, Tensor g_weight, Tensor g_bias, Tensor g_gamma, Tensor g_beta)",
    check=check_backward, run=kernels.backward, fake=_fake_backward,
    composition=_composite_backward,
)  # fmt: skip


# Derivatives.


def _save(ctx: Any, a: Forward, backend: str, output: tuple[Tensor, ...]) -> None:
    y, mean, var, z = output
    ctx.mark_non_differentiable(*(t for t in (mean, var, z) if t is not None))
    if not a.spec.training:
        mean, var = norm_ops.snapshot(a.norm.mean, a.norm.var)  # type: ignore[assignment]
    is_plain = is_identity(*a.spec.after)
    kept = None if z is None or not (a.keep_z and a.has_prologue) else z
    ctx.save_for_backward(
        a.x, None if is_plain else y, kept, a.weight, mean, var, a.norm.gamma, a.norm.beta
    )
    ctx.rest = a.spec, backend


def _gradients(ctx: Any, needs: Needs, g_y: Tensor | None, *_: Any) -> Gradients:
    if g_y is None:
        return {}
    x, y, z, weight, *norm = ctx.saved_tensors
    spec, backend = ctx.rest
    need_affine = "gamma" in needs or "beta" in needs
    a = Backward(
        g_y, x, y, z, weight, NormTensors(*norm), spec, "x" in needs, "weight" in needs,
        "bias" in needs, need_affine,
    )  # fmt: skip
    g_x, g_weight, g_bias, g_gamma, g_beta = all_gradients(a, backend)
    return {"x": g_x, "weight": g_weight, "bias": g_bias, "gamma": g_gamma, "beta": g_beta}


def all_gradients(a: Backward, backend: str) -> tuple[Any, ...]:
    """Those of (x, weight, bias, gamma, beta), differentiable under `create_graph`."""
    weight, again, is_eager = a.weight, torch.is_grad_enabled(), dispatch.is_eager(a.g_y)
    if again or not is_eager:
        a = a._replace(weight=weight.to(a.x.dtype))
    found = _differentiable(a, backend) if again else BACKWARD(a, backend, is_eager)
    if a.need_weight and found[1].dtype is not weight.dtype:
        g_x, g_weight, *rest = found
        found = g_x, g_weight.to(weight.dtype), *rest
    return found


def _differentiable(a: Backward, backend: str) -> tuple[Any, ...]:
    """The gradients as a composition of differentiable ops, for `create_graph`."""
    x, y, spec, dy, g_bias = a.x, a.y, a.spec, a.g_y, None
    if y is not None:
        dy, g_bias = _bias_act_backward(dy, y, *spec.after, a.need_bias, backend)
    elif a.need_bias:
        g_bias = dy.sum([0, *range(2, dy.dim())], dtype=stat_dtype(x))
    z = _differentiable_input(a, backend) if a.need_weight else x.detach()
    need_dz = a.need_x or a.need_affine
    beyond = reads_beyond(x.shape, a.weight.shape, spec.geometry, x.dtype, x.device.type)
    own = torch.float32 if beyond else x.dtype
    geometry = Arguments(*aten_arguments(*spec.geometry))
    needs = need_dz, a.need_weight, False
    dz, g_weight, _ = gradients(dy.to(own), z.to(own), a.weight.to(own), geometry, needs)
    if g_weight is not None:
        g_weight = g_weight.to(x.dtype)
    if dz is None:
        return None, g_weight, g_bias, None, None
    dz = dz.to(x.dtype)
    mean, var, gamma, beta = a.norm
    if mean is not None and var is not None:
        of_norm = norm_arguments.Backward(
            dense_like(dz, x),
            x,
            mean,
            var,
            gamma,
            beta,
            spec.norm,
            spec.training,
            a.need_x,
            a.need_affine,
        )
        g_x, g_gamma, g_beta = norm_ops.BACKWARD(of_norm, backend)
        return g_x, g_weight, g_bias, g_gamma, g_beta
    if not is_identity(*spec.before):
        of_input = z if a.need_weight else _differentiable_input(a, backend)
        dz, _ = _bias_act_backward(dz, of_input, *spec.before, False, backend)
    return dz, g_weight, g_bias, None, None


def _differentiable_input(a: Backward, backend: str) -> Tensor:
    """z = act(norm(x)) again, with its derivatives."""
    x, spec = a.x, a.spec
    mean, var, gamma, beta = a.norm
    z: Tensor = x
    if spec.training:
        z = norm_ops.TRAIN(norm_arguments.Train(x, gamma, beta, spec.norm), backend)[0]
    elif mean is not None and var is not None:
        z = norm_ops.EVAL(norm_arguments.Eval(x, mean, var, gamma, beta, spec.norm), backend)
    elif not is_identity(*spec.before):
        z = ACTIVATION(Activation(x, None, *spec.before), backend)
    return z


def _bias_act_backward(
    g: Tensor, output: Tensor, code: int, slope: float, need_bias: bool, backend: str
) -> tuple[Tensor, Tensor]:
    a = ActivationBackward(dense_like(g, output), output, code, slope, need_bias)
    found: tuple[Tensor, Tensor] = ACTIVATION_BACKWARD(a, backend)
    return found


def _no_double_backward(*_: Any) -> Gradients:
    raise RuntimeError(
        "norm_act_conv_backward has no derivative; the backward of norm_act_conv under "
        "create_graph is a composition of differentiable ops"
    )


FORWARD.differentiate(_save, _gradients, asks_engine=True, first_alone=True)
BACKWARD.differentiate(lambda *_: None, _no_double_backward)
