"""norm_act_conv under autograd: the dispatcher ops that `torch.compile` sees, and the eager call.

Plain eager calls go straight to the raw kernels through an `autograd.Function`, as norm_act's do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from fastgan.ops.bias_act.autograd import BACKWARD as ACTIVATION_BACKWARD
from fastgan.ops.bias_act.autograd import FORWARD as ACTIVATION
from fastgan.ops.conv.aten import reads_beyond
from fastgan.ops.conv.geometry import Geometry, aten_arguments, output_shape
from fastgan.ops.conv_block.reference import channels_last_empty
from fastgan.ops.core import dispatch, raw_checks
from fastgan.ops.core.activation import is_identity
from fastgan.ops.core.library import LIBRARY, define, operator, register_autograd
from fastgan.ops.core.raw_checks import checked
from fastgan.ops.core.tensors import dense_like, is_channels_last, stat_dtype
from fastgan.ops.norm_act import autograd as norm_ops
from fastgan.ops.norm_act import reference as norm_reference
from fastgan.ops.norm_act_conv import kernels as raw
from fastgan.ops.norm_act_conv import reference
from fastgan.ops.norm_act_conv.kernels import Needs, Norm, Spec, has_prologue

Running = tuple[Tensor, Tensor] | None
Moving = tuple[float, int, bool]  # momentum, count, average


def run(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm: Norm,
    spec: Spec,
    keep_z: bool,
    running: Running,
    moving: Moving,
) -> Tensor:
    """y = act(conv(pre_act(norm(x))) + bias); in training `running` moves to the statistics.

    weight is in any dtype: kernels that round it as they read it are given it as it is.
    """
    backend, tensors = dispatch.setting(), (x, weight, bias, *norm)
    eager = dispatch.is_eager(*tensors)
    if not (eager and raw.reads_float32(x, weight, spec, backend)):
        weight = weight.to(x.dtype)
        tensors = x, weight, bias, *norm
    if eager:
        rest = spec, backend, keep_z, running, moving
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
            return _Eager.apply(*tensors, *rest)
        return _forward(*tensors, *rest)[0]
    y, mean, var, _ = FORWARD(*tensors, *_flat(spec), keep_z, backend)
    if running is not None:
        with torch.no_grad():
            norm_ops.UPDATE(*running, mean, var, *moving, backend)
    return y


def _forward(
    x: Tensor, weight: Tensor, bias: Any, mean: Any, var: Any, gamma: Any, beta: Any,
    spec: Spec, backend: str, keep_z: bool, running: Running, moving: Moving,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """(y, mean, var, z), z None unless it is to be kept and is not x itself."""
    y, mean, var, z = raw.forward(x, weight, bias, (mean, var, gamma, beta), spec, backend)
    if running is not None:
        norm_ops.update_(*running, mean, var, *moving, backend)
    return y, mean, var, z if keep_z and z is not x else None


class _Eager(Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        x, weight, _, _, _, gamma, beta = args[:7]
        ctx.spec, ctx.backend = args[7:9]
        ctx.given = [i for i in range(7) if args[i] is not None]
        y, mean, var, z = _forward(*args)
        if not ctx.spec.training:
            mean, var = norm_ops.snapshot(mean, var)
        identity = is_identity(ctx.spec.activation, ctx.spec.slope)
        ctx.save_for_backward(x, None if identity else y, z, weight, mean, var, gamma, beta)
        return y

    @staticmethod
    def backward(ctx: Any, g_y: Tensor) -> tuple[Any, ...]:
        needs = [False] * 7
        for i, (node, _) in zip(ctx.given, ctx.next_functions, strict=True):
            needs[i] = ctx.needs_input_grad[i] and _will_run(node)
        return (*_gradients(ctx, g_y, needs), *(None,) * 5)


def _will_run(node: Any) -> bool:
    """Whether this backward goes on to `node`: `torch.autograd.grad` of other inputs does not."""
    try:
        return bool(torch._C._will_engine_execute_node(node))
    except RuntimeError:  # a leaf that the gradient is asked of
        return True


def _gradients(ctx: Any, g_y: Tensor, needed: Any) -> tuple[Any, ...]:
    """The gradients of the seven tensors, None for each that is not needed."""
    x, y, z, weight, *norm = ctx.saved_tensors
    needs = Needs(needed[0], needed[1], needed[2], needed[5] or needed[6])
    results: Any
    if torch.is_grad_enabled():
        own = g_y, x, y, weight.to(x.dtype), tuple(norm)
        results = _differentiable(*own, ctx.spec, needs, ctx.backend)
    elif dispatch.is_eager(g_y):
        results = raw.backward(g_y, x, y, z, weight, tuple(norm), ctx.spec, needs, ctx.backend)
    else:
        given = g_y, x, y, z, weight.to(x.dtype), *norm
        results = BACKWARD(*given, *_flat(ctx.spec), *needs, ctx.backend)
    g_x, g_weight, g_bias, g_gamma, g_beta = results
    if needs.weight:
        g_weight = g_weight.to(weight.dtype)
    found = g_x, g_weight, g_bias, None, None, g_gamma, g_beta
    return tuple(g if need else None for g, need in zip(found, needed, strict=True))


def _differentiable(
    g_y: Tensor,
    x: Tensor,
    y: Tensor | None,
    weight: Tensor,
    norm: Norm,
    spec: Spec,
    needs: Needs,
    backend: str,
) -> tuple[Any, ...]:
    """The gradients as a composition of differentiable ops, for `create_graph`."""
    dy, g_bias = g_y, None
    if y is not None:
        after = spec.activation, spec.slope
        dy, g_bias = _bias_act_backward(g_y, y, *after, needs.bias, backend)
    elif needs.bias:
        g_bias = g_y.sum([0, *range(2, g_y.dim())], dtype=stat_dtype(x))
    z = _differentiable_input(x, norm, spec, backend) if needs.weight else x.detach()
    need_dz = needs.x or needs.affine
    beyond = reads_beyond(x.shape, weight.shape, spec.geometry, x.dtype, x.device.type)
    own = torch.float32 if beyond else x.dtype
    dz, g_weight, _ = torch.ops.aten.convolution_backward(
        dy.to(own), z.to(own), weight.to(own), None, *aten_arguments(*spec.geometry),
        [need_dz, needs.weight, False],
    )  # fmt: skip
    if needs.weight:
        g_weight = g_weight.to(x.dtype)
    if not need_dz:
        return None, g_weight, g_bias, None, None
    dz = dz.to(x.dtype)
    before = spec.pre_activation, spec.pre_slope
    if norm[0] is not None:
        g_x, g_gamma, g_beta = norm_ops.BACKWARD(
            dense_like(dz, x), x, *norm, spec.eps, *before, spec.segments, False, spec.training,
            needs.x, needs.affine, backend,
        )  # fmt: skip
        return g_x, g_weight, g_bias, g_gamma, g_beta
    if not is_identity(*before):
        of_input = z if needs.weight else _differentiable_input(x, norm, spec, backend)
        dz, _ = _bias_act_backward(dz, of_input, *before, False, backend)
    return dz, g_weight, g_bias, None, None


def _differentiable_input(x: Tensor, norm: Norm, spec: Spec, backend: str) -> Tensor:
    """z = act(norm(x)) again, with its derivatives."""
    mean, var, *affine = norm
    before = spec.pre_activation, spec.pre_slope
    norm_spec = spec.eps, *before, spec.segments, False, backend
    z: Tensor = x
    if spec.training:
        z = norm_ops.TRAIN(x, *affine, *norm_spec)[0]
    elif mean is not None:
        z = norm_ops.EVAL(x, mean, var, *affine, *norm_spec)
    elif not is_identity(*before):
        z = ACTIVATION(x, None, *before, backend)
    return z


def _bias_act_backward(
    g: Tensor, output: Tensor, code: int, slope: float, need_bias: bool, backend: str
) -> tuple[Tensor, Tensor]:
    g = dense_like(g, output)
    found: tuple[Tensor, Tensor] = ACTIVATION_BACKWARD(g, output, code, slope, need_bias, backend)
    return found


# The dispatcher ops.

_SPEC = (
    "float eps, int pre_activation, float pre_slope, bool training, SymInt segments, int[] stride, "
    "int[] padding, int[] output_padding, bool transposed, int activation, float slope"
)
_NORM = "Tensor? mean, Tensor? var, Tensor? gamma, Tensor? beta"
define(
    f"norm_act_conv(Tensor x, Tensor weight, Tensor? bias, {_NORM}, {_SPEC}, bool keep_z, "
    "str backend) -> (Tensor y, Tensor mean, Tensor var, Tensor z)"
)
define(
    f"norm_act_conv_backward(Tensor g_y, Tensor x, Tensor? y, Tensor? z, Tensor weight, {_NORM}, "
    f"{_SPEC}, bool need_x, bool need_weight, bool need_bias, bool need_affine, str backend) "
    "-> (Tensor g_x, Tensor g_weight, Tensor g_bias, Tensor g_gamma, Tensor g_beta)"
)


def _flat(spec: Spec) -> tuple[Any, ...]:
    stride, padding, output_padding, transposed = spec.geometry
    geometry = list(stride), list(padding), list(output_padding), transposed
    return *spec[:5], *geometry, *spec[6:]


def _spec(flat: tuple[Any, ...]) -> Spec:
    eps, code, slope, training, segments, *steps, transposed, activation, slope_after = flat
    stride, padding, output_padding = map(tuple, steps)
    geometry = Geometry(stride, padding, output_padding, transposed)
    return Spec(eps, code, slope, training, segments, geometry, activation, slope_after)


def _run(x: Tensor, weight: Tensor, bias: Any, *args: Any) -> tuple[Tensor, ...]:
    norm, spec, (keep_z, backend) = args[:4], _spec(args[4:15]), args[15:]
    return _outputs(x, spec, keep_z, *raw.forward(x, weight, bias, norm, spec, backend))


def _outputs(
    x: Tensor, spec: Spec, keep_z: bool, y: Tensor, mean: Any, var: Any, z: Tensor
) -> tuple[Tensor, ...]:
    no_sums = x.new_empty(0, dtype=stat_dtype(x))
    if not spec.training or mean is None or var is None:
        mean, var = no_sums, no_sums.clone()
    return y, mean, var, z if keep_z and z is not x else x.new_empty(0)


def _run_backward(g_y: Tensor, x: Tensor, y: Any, z: Any, weight: Tensor, *args: Any) -> Any:
    norm, spec, needs, backend = args[:4], _spec(args[4:15]), Needs(*args[15:19]), args[19]
    return raw.backward(g_y, x, y, z, weight, norm, spec, needs, backend)


def _composed(x: Tensor, weight: Tensor, bias: Any, *args: Any) -> tuple[Tensor, ...]:
    norm, spec, keep_z = args[:4], _spec(args[4:15]), args[15]
    y, mean, var, z = reference.forward(x, weight, bias, *norm, *spec)
    kept = z if has_prologue(norm, spec) else x
    y, *of_input = _outputs(x, spec, keep_z, y, mean, var, kept)
    return y, *(t.detach() for t in of_input)


def _composed_backward(g_y: Tensor, x: Tensor, y: Any, z: Any, weight: Tensor, *args: Any) -> Any:
    """y and z are those of these x and weight, on which they depend."""
    norm, spec, needs = args[:4], _spec(args[4:15]), Needs(*args[15:19])
    if spec.training:
        mean, var = norm_reference.moments(norm_reference.split(x, spec.segments))
        norm = mean, var, *norm[2:]
    return reference.backward(g_y, x, g_y if y is None else y, weight, *norm, *spec, needs)


def _fake(x: Tensor, weight: Tensor, bias: Any, *args: Any) -> tuple[Tensor, ...]:
    mean, spec, keep_z = args[0], _spec(args[4:15]), args[15]
    shape = output_shape(x.shape, weight.shape, spec.geometry)
    y = channels_last_empty(x, list(shape)) if is_channels_last(x) else x.new_empty(shape)
    rows = (spec.segments, x.shape[1]) if spec.training else (0,)
    mean = x.new_empty(rows, dtype=stat_dtype(x))
    kept = keep_z and has_prologue(args[:4], spec)
    return y, mean, torch.empty_like(mean), torch.empty_like(x) if kept else x.new_empty(0)


def _fake_backward(g_y: Tensor, x: Tensor, y: Any, z: Any, weight: Tensor, *args: Any) -> Any:
    needs, normed = Needs(*args[15:19]), args[0] is not None
    sums = stat_dtype(x)
    of_affine = x.shape[1] if normed and needs.affine else 0
    return (
        torch.empty_like(x) if needs.x else x.new_empty(0),
        dense_like(weight.new_empty(weight.shape), weight) if needs.weight else x.new_empty(0),
        x.new_empty(g_y.shape[1] if needs.bias else 0, dtype=sums),
        x.new_empty(of_affine, dtype=sums),
        x.new_empty(of_affine, dtype=sums),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, _, mean, var, gamma, beta = inputs[:7]
    ctx.spec, (ctx.keep_z, ctx.backend) = _spec(inputs[7:18]), inputs[18:]
    y, own_mean, own_var, z = output
    ctx.mark_non_differentiable(own_mean, own_var, z)
    ctx.set_materialize_grads(False)
    mean, var = (own_mean, own_var) if ctx.spec.training else norm_ops.snapshot(mean, var)
    kept = z if ctx.keep_z and has_prologue((mean, var, gamma, beta), ctx.spec) else None
    of_output = None if is_identity(ctx.spec.activation, ctx.spec.slope) else y
    ctx.save_for_backward(x, of_output, kept, weight, mean, var, gamma, beta)


def _backward(ctx: Any, g_y: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if g_y is None:
        return (None,) * 20
    return (*_gradients(ctx, g_y, ctx.needs_input_grad[:7]), *(None,) * 13)


def _no_double_backward(ctx: Any, *_: Any) -> None:
    raise RuntimeError(
        "norm_act_conv_backward has no derivative; the backward of norm_act_conv under "
        "create_graph is a composition of differentiable ops"
    )


FORWARD = operator("norm_act_conv", _composed)
BACKWARD = operator("norm_act_conv_backward", _composed_backward)


def _register() -> None:
    for name, implementation in (
        ("norm_act_conv", _run),
        ("norm_act_conv_backward", _run_backward),
    ):
        guarded = checked(getattr(raw_checks, name), implementation)
        LIBRARY.impl(name, guarded, "CompositeExplicitAutograd")
    torch.library.register_fake("fastgan::norm_act_conv", _fake, lib=LIBRARY)
    torch.library.register_fake("fastgan::norm_act_conv_backward", _fake_backward, lib=LIBRARY)
    register_autograd("norm_act_conv", _backward, _save, _composed)
    register_autograd(
        "norm_act_conv_backward", _no_double_backward, lambda *_, **__: None, _composed_backward
    )


_register()
