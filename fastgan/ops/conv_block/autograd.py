"""The dispatcher ops of conv_block: what `torch.compile`, `torch.export` and transforms see."""

from __future__ import annotations

from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from fastgan.kernels.conv_block.packed import eager_call
from fastgan.ops.bias_act.autograd import BACKWARD as ACTIVATION_BACKWARD
from fastgan.ops.conv.geometry import Geometry, output_shape
from fastgan.ops.conv_block import reference
from fastgan.ops.core import dispatch, raw_checks
from fastgan.ops.core.activation import IDENTITY, LEAKY_RELU, TANH, is_identity
from fastgan.ops.core.library import LIBRARY, define, operator, register_autograd
from fastgan.ops.core.raw_checks import checked
from fastgan.ops.core.tensors import (
    channels_last,
    dense_like,
    own_output,
    stat_dtype,
)
from fastgan.ops.norm_act.autograd import snapshot


def backend_of(x: Tensor, backend: str = "auto") -> str:
    """What runs conv_block on x: on CPU tensors triton (the interpreter) only if it is asked for.

    RuntimeError for a backend that has none.
    """
    if backend == "auto":
        runs = x.is_cuda and dispatch.why_not("triton", x.device.type, x.dtype) is None
        backend = "triton" if runs else "reference"
    if backend not in ("triton", "reference"):
        raise RuntimeError(
            f"backend {backend!r} cannot run: conv_block has none; see norm_act_conv"
        )
    return backend


def call(op: Any, *args: Any) -> Any:
    """op of args, eager if that is what it is: its weight's packed copies may be kept then."""
    if not dispatch.is_eager(*(a for a in args if isinstance(a, Tensor))):
        return op(*args)
    with eager_call():
        return op(*args)


def _kernels(backend: str, x: Tensor) -> ModuleType:
    return dispatch.kernels(backend_of(x, backend), "conv_block", x)


_NORM = "Tensor? mean, Tensor? var, Tensor? gamma, Tensor? beta, float eps, int pre_activation"
_SPEC = (
    "float pre_slope, int[] stride, int[] padding, int[] output_padding, bool transposed, "
    "int activation, float slope, SymInt segments"
)
define(
    f"conv_block(Tensor x, Tensor weight, Tensor? bias, {_NORM}, {_SPEC}, str backend) "
    "-> (Tensor y, Tensor mean, Tensor var)"
)
define(
    "conv_block_backward(Tensor g_y, Tensor? g_mean, Tensor? g_var, Tensor x, Tensor y, "
    f"Tensor y_mean, Tensor weight, {_NORM}, {_SPEC}, bool need_x, bool need_weight, "
    "bool need_bias, str backend) -> (Tensor g_x, Tensor g_weight, Tensor g_bias, Tensor g_mean, "
    "Tensor g_var, Tensor g_gamma, Tensor g_beta)"
)
FORWARD = operator("conv_block", reference.conv_block_forward)
BACKWARD = operator("conv_block_backward", reference.conv_block_backward)


def _run(x: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    y, mean, var = _kernels(args[-1], x).conv_block_forward(x, *args[:-1])
    return own_output(y), mean, var


def _run_backward(g_y: Tensor, g_mean: Any, g_var: Any, x: Tensor, *args: Any) -> Any:
    return _kernels(args[-1], x).conv_block_backward(g_y, g_mean, g_var, x, *args[:-1])


def _fake(x: Tensor, weight: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    *geometry, _, _, segments, _ = args[8:]
    shape = output_shape(x.shape, weight.shape, Geometry(*geometry))
    y = reference.channels_last_empty(x, list(shape))
    rows = (segments, shape[1]) if segments else (0,)
    mean = x.new_empty(rows, dtype=stat_dtype(x))
    return y, mean, torch.empty_like(mean)


def _fake_backward(
    g_y: Tensor, g_mean: Any, g_var: Any, x: Tensor, y: Tensor, y_mean: Tensor, weight: Tensor,
    mean: Tensor | None, *args: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    need_x, need_weight, need_bias, _ = args[-4:]

    def rows(*shape: int) -> Tensor:
        return x.new_empty(shape, dtype=stat_dtype(x))

    normed = need_x and mean is not None
    of_norm = [rows(*mean.shape) if normed and mean is not None else rows(0) for _ in range(2)]
    of_affine = [rows(x.shape[1]) if normed else rows(0) for _ in range(2)]
    return (
        torch.empty_like(x) if need_x else x.new_empty(0),
        torch.empty_like(weight) if need_weight else x.new_empty(0),
        rows(y.shape[1] if need_bias else 0),
        *of_norm,
        *of_affine,
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, _, mean, var, gamma, beta, *spec = inputs
    y, y_mean, _ = output
    *_, code, slope, segments, _ = spec
    needed = segments or not is_identity(code, slope)  # else y may be changed in place
    ctx.set_materialize_grads(False)
    if not any(ctx.needs_input_grad[3:5]):
        mean, var = snapshot(mean, var)
    ctx.save_for_backward(x, y if needed else None, y_mean, weight, mean, var, gamma, beta)
    ctx.spec = spec


def _backward(ctx: Any, g_y: Any, g_mean: Any, g_var: Any) -> tuple[Any, ...]:
    if g_y is None and g_mean is None and g_var is None:
        return (None,) * 18
    x, y, y_mean, weight, mean, var, gamma, beta = ctx.saved_tensors
    need_x, need_weight, need_bias, *need_norm = ctx.needs_input_grad[:7]
    *spec, backend = ctx.spec
    if y is None:
        y = g_y = channels_last(g_y.to(x.dtype))
    else:
        g_y = torch.zeros_like(y) if g_y is None else dense_like(g_y, y)
    results = call(
        BACKWARD, g_y, g_mean, g_var, x, y, y_mean, weight, mean, var, gamma, beta, *spec,
        need_x or any(need_norm), need_weight, need_bias, backend,
    )  # fmt: skip
    wanted = zip(results, (need_x, need_weight, need_bias, *need_norm), strict=True)
    return (*(g if needed else None for g, needed in wanted), *(None,) * 11)


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:11])
    ctx.spec = inputs[11:]


def _double_backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
    *spec, need_x, need_weight, need_bias, _ = ctx.spec
    needed = (need_x, need_weight, need_bias, *(need_x,) * 4)
    given = [g if use else None for g, use in zip(cotangents, needed, strict=True)]
    nothing = (None,) * len(ctx.needs_input_grad)
    if all(g is None for g in given):
        return nothing
    _, g_mean, g_var, *_ = ctx.saved_tensors
    plain = g_mean is None and g_var is None and ctx.saved_tensors[7] is None
    if plain and is_identity(*spec[1:3]):
        return (*_bilinear(ctx, *given[:3]), *nothing[11:])
    return (*_differentiated(ctx, given), *nothing[11:])


def _bilinear(
    ctx: Any, v_x: Tensor | None, v_weight: Tensor | None, v_bias: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Without a norm before it the backward is bilinear: these are the same kernels again.

    With dy = act'(y) g_y it is (dgrad(dy, W), wgrad(x, dy), sum dy), and for cotangents v the sum
    <dy, conv(v_x, W) + conv(x, v_W) + v_b>. act' in terms of y is 1 - y^2 for tanh and y (1 - y)
    for sigmoid, hence the factors of g_saved; for LeakyReLU it is piecewise constant.
    """
    g_y, _, _, x, y, _, weight, *_ = ctx.saved_tensors
    code, slope = ctx.spec[7:9]
    *_, backend = ctx.spec
    geometry = ctx.spec[3:7]
    masked = partial(_through_activation, y=y, code=code, slope=slope, backend=backend)
    dy = masked(g_y)
    terms = [] if v_bias is None else [v_bias.reshape(-1, *(1,) * (y.dim() - 2)).to(y.dtype)]
    g_x = g_weight = None
    if v_x is not None:
        terms.append(_convolution(v_x, weight, geometry, backend))
        if ctx.needs_input_grad[6]:
            _, g_weight = _convolution_gradients(v_x, dy, weight, geometry, False, True, backend)
    if v_weight is not None:
        terms.append(_convolution(x, v_weight, geometry, backend))
        if ctx.needs_input_grad[3]:
            g_x, _ = _convolution_gradients(x, dy, v_weight, geometry, True, False, backend)
    q = sum(terms[1:], terms[0]).expand_as(y)
    g_saved = None
    if code != LEAKY_RELU and ctx.needs_input_grad[4]:
        g_saved = g_y * q * (-2 * y if code == TANH else 1 - 2 * y)
    g_gy = masked(q) if ctx.needs_input_grad[0] else None
    return (g_gy, None, None, g_x, g_saved, None, g_weight, *(None,) * 4)


def _differentiated(ctx: Any, given: list[Tensor | None]) -> list[Tensor | None]:
    """Through a norm: the derivative of the backward's formula, its convolutions this op again."""
    *spec, backend = ctx.spec
    dtype = ctx.saved_tensors[3].dtype

    def gradients(
        z: Tensor, dy: Tensor, weight: Tensor, *args: Any
    ) -> tuple[Tensor | None, Tensor | None]:
        z, dy = z.to(dtype), dy.to(dtype)
        need_input, need_weight = args[4:]
        return _convolution_gradients(z, dy, weight, args[:4], need_input, need_weight, backend)

    found: list[Tensor | None] = [None] * 11
    wanted = [i for i in range(11) if ctx.needs_input_grad[i]]
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, so that the formula is differentiated from here and no further.
        inputs: list[Any] = [None if t is None else t.view_as(t) for t in ctx.saved_tensors]
        outputs = reference.conv_block_backward(*inputs, *spec, gradients=gradients)
        pairs = [
            (out, g.to(out.dtype))
            for out, g in zip(outputs, given, strict=True)
            if g is not None and out.requires_grad
        ]
    if wanted and pairs:
        of_wanted = torch.autograd.grad(
            [out for out, _ in pairs], [inputs[i] for i in wanted], [g for _, g in pairs],
            create_graph=again, allow_unused=True,
        )  # fmt: skip
        for i, g in zip(wanted, of_wanted, strict=True):
            found[i] = g
    return found


def _through_activation(g: Tensor, y: Tensor, code: int, slope: float, backend: str) -> Tensor:
    if is_identity(code, slope):
        return g
    return ACTIVATION_BACKWARD(dense_like(g, y), y, code, slope, False, backend)[0]


def _convolution(x: Tensor, weight: Tensor, geometry: tuple[Any, ...], backend: str) -> Tensor:
    none = (None,) * 5
    spec = (0.0, *IDENTITY, *geometry, *IDENTITY, 0, backend)
    y: Tensor = call(FORWARD, channels_last(x), weight, *none, *spec)[0]
    return y


def _convolution_gradients(
    z: Tensor,
    dy: Tensor,
    weight: Tensor,
    geometry: tuple[Any, ...],
    need_input: bool,
    need_weight: bool,
    backend: str,
) -> tuple[Tensor | None, Tensor | None]:
    """(dz, dweight) of a plain convolution, from the kernels and differentiable to any order."""
    z, dy = channels_last(z), channels_last(dy)
    spec = (0.0, *IDENTITY, *geometry, *IDENTITY, 0, need_input, need_weight, False, backend)
    no_rows, none = dy.new_empty(0, dtype=stat_dtype(dy)), (None,) * 4
    args = dy, None, None, z, dy, no_rows, weight, *none, *spec
    dz, dweight, *_ = call(BACKWARD, *args)
    return dz if need_input else None, dweight if need_weight else None


def _register() -> None:
    for name, implementation in (("conv_block", _run), ("conv_block_backward", _run_backward)):
        guarded = checked(getattr(raw_checks, name), implementation)
        LIBRARY.impl(name, guarded, "CompositeExplicitAutograd")
    torch.library.register_fake("fastgan::conv_block", _fake, lib=LIBRARY)
    torch.library.register_fake("fastgan::conv_block_backward", _fake_backward, lib=LIBRARY)
    register_autograd("conv_block", _backward, _save, reference.conv_block_forward)
    register_autograd(
        "conv_block_backward", _double_backward, _save_backward, reference.conv_block_backward
    )


_register()
