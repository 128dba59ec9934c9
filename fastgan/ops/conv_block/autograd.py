"""The operators of conv_block: what `torch.compile`, `torch.export` and transforms see."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastgan.kernels.core.packed import eager_call
from fastgan.ops.bias_act.arguments import Backward as ActivationBackward
from fastgan.ops.bias_act.autograd import BACKWARD as ACTIVATION_BACKWARD
from fastgan.ops.conv.geometry import Geometry, output_shape
from fastgan.ops.conv_block import reference
from fastgan.ops.conv_block.arguments import (
    Backward,
    Forward,
    Spec,
    check_backward,
    check_forward,
)
from fastgan.ops.core import dispatch
from fastgan.ops.core.activation import IDENTITY, LEAKY_RELU, TANH, is_identity
from fastgan.ops.core.arguments import flat, names
from fastgan.ops.core.library import Gradients, Needs, Operator, keep, kept
from fastgan.ops.core.memory_format import channels_last, dense_like
from fastgan.ops.core.tensors import own_output, stat_dtype
from fastgan.ops.norm_act.arguments import NormTensors
from fastgan.ops.norm_act.autograd import snapshot

Three = tuple[Tensor, Tensor, Tensor]


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


def _kernels(backend: str, x: Tensor) -> Any:
    return dispatch.kernels(backend_of(x, backend), "conv_block", x)


def _forward(a: Forward, backend: str) -> Three:
    y, mean, var = _kernels(backend, a.x).conv_block_forward(*flat(a))
    return own_output(y), mean, var


def _backward(a: Backward, backend: str) -> tuple[Tensor, ...]:
    found: tuple[Tensor, ...] = _kernels(backend, a.x).conv_block_backward(*flat(a))
    return found


def _eager(run: Any) -> Any:
    """`run` for plain eager calls, for which the weight's packed copies may be kept."""

    def call(a: Forward | Backward, backend: str) -> Any:
        with eager_call():
            return run(a, backend)

    return call


# Without values, for tracing.


def _fake(a: Forward) -> Three:
    x, segments = a.x, a.spec.segments
    shape = output_shape(x.shape, a.weight.shape, a.spec.geometry)
    y = reference.channels_last_empty(x, list(shape))
    rows = (segments, shape[1]) if segments else (0,)
    mean = x.new_empty(rows, dtype=stat_dtype(x))
    return y, mean, torch.empty_like(mean)


def _fake_backward(a: Backward) -> tuple[Tensor, ...]:
    x, mean = a.x, a.norm.mean

    def rows(*shape: int) -> Tensor:
        return x.new_empty(shape, dtype=stat_dtype(x))

    normed = a.need_x and mean is not None
    of_norm = [rows(*mean.shape) if normed and mean is not None else rows(0) for _ in range(2)]
    of_affine = [rows(x.shape[1]) if normed else rows(0) for _ in range(2)]
    return (
        torch.empty_like(x) if a.need_x else x.new_empty(0),
        torch.empty_like(a.weight) if a.need_weight else x.new_empty(0),
        rows(a.y.shape[1] if a.need_bias else 0),
        *of_norm,
        *of_affine,
    )


FORWARD = Operator(
    "conv_block", Forward, "(Tensor y, Tensor mean, Tensor var)",
    check=check_forward, run=_forward, eager=_eager(_forward), fake=_fake,
    composition=lambda a: reference.conv_block_forward(*flat(a)),
)  # fmt: skip
BACKWARD = Operator(
    "conv_block_backward", Backward,
    "(Tensor g_x, Tensor g_weight, Tensor g_bias, Tensor g_mean, Tensor g_var, Tensor g_gamma, "
    "Tensor g_beta)",
    check=check_backward, run=_backward, eager=_eager(_backward), fake=_fake_backward,
    composition=lambda a: reference.conv_block_backward(*flat(a)),
)  # fmt: skip


# Derivatives.


def _save(ctx: Any, a: Forward, backend: str, output: Three) -> None:
    y, y_mean, _ = output
    spec, (mean, var, gamma, beta) = a.spec, a.norm
    read = spec.segments or not is_identity(spec.activation, spec.slope)  # else y may be changed
    if not any(t is not None and t.requires_grad for t in (mean, var)):
        mean, var = snapshot(mean, var)
    ctx.save_for_backward(a.x, y if read else None, y_mean, a.weight, mean, var, gamma, beta)
    ctx.rest = spec, backend


def _gradients(ctx: Any, needs: Needs, g_y: Any, g_mean: Any, g_var: Any) -> Gradients:
    if g_y is None and g_mean is None and g_var is None:
        return {}
    x, y, y_mean, weight, *norm = ctx.saved_tensors
    spec, backend = ctx.rest
    if y is None:
        y = g_y = channels_last(g_y.to(x.dtype))
    else:
        g_y = torch.zeros_like(y) if g_y is None else dense_like(g_y, y)
    need_x = not needs.isdisjoint(("x", *NormTensors._fields))
    a = Backward(
        g_y, g_mean, g_var, x, y, y_mean, weight, NormTensors(*norm), spec, need_x,
        "weight" in needs, "bias" in needs,
    )  # fmt: skip
    return dict(
        zip(("x", "weight", "bias", *NormTensors._fields), BACKWARD(a, backend), strict=True)
    )


def _save_backward(ctx: Any, a: Backward, backend: str, output: Any) -> None:
    keep(ctx, a)
    ctx.backend = backend


def _double_backward(
    ctx: Any, needs: Needs, g_x: Any, g_weight: Any, g_bias: Any, *of_norm: Tensor | None
) -> Gradients:
    a = kept(ctx)
    g_x, g_weight = g_x if a.need_x else None, g_weight if a.need_weight else None
    g_bias = g_bias if a.need_bias else None
    of_norm = tuple(g if a.need_x else None for g in of_norm)
    given = g_x, g_weight, g_bias, *of_norm
    if all(g is None for g in given):
        return {}
    plain = a.g_mean is None and a.g_var is None and a.norm.mean is None
    if plain and is_identity(a.spec.pre_activation, a.spec.pre_slope):
        return _bilinear(a, ctx.backend, needs, g_x, g_weight, g_bias)
    return _differentiated(a, ctx.backend, needs, given)


def _bilinear(
    a: Backward,
    backend: str,
    needs: Needs,
    v_x: Tensor | None,
    v_weight: Tensor | None,
    v_bias: Tensor | None,
) -> Gradients:
    """Without a norm before it the backward is bilinear: these are the same kernels again.

    With dy = act'(y) g_y it is (dgrad(dy, W), wgrad(x, dy), sum dy), and for cotangents v the sum
    <dy, conv(v_x, W) + conv(x, v_W) + v_b>. act' in terms of y is 1 - y^2 for tanh and y (1 - y)
    for sigmoid, hence the factors of the gradient of y; for LeakyReLU it is piecewise constant.
    """
    g_y, x, y, weight = a.g_y, a.x, a.y, a.weight
    code, geometry = a.spec.activation, a.spec.geometry
    masked = partial(_through_activation, y=y, code=code, slope=a.spec.slope, backend=backend)
    dy = masked(g_y)
    terms = [] if v_bias is None else [v_bias.reshape(-1, *(1,) * (y.dim() - 2)).to(y.dtype)]
    found: Gradients = {}
    if v_x is not None:
        terms.append(_convolution(v_x, weight, geometry, backend))
        if "weight" in needs:
            of_both = _convolution_gradients(v_x, dy, weight, geometry, False, True, backend)
            found["weight"] = of_both[1]
    if v_weight is not None:
        terms.append(_convolution(x, v_weight, geometry, backend))
        if "x" in needs:
            of_both = _convolution_gradients(x, dy, v_weight, geometry, True, False, backend)
            found["x"] = of_both[0]
    q = sum(terms[1:], terms[0]).expand_as(y)
    if code != LEAKY_RELU and "y" in needs:
        found["y"] = g_y * q * (-2 * y if code == TANH else 1 - 2 * y)
    if "g_y" in needs:
        found["g_y"] = masked(q)
    return found


def _differentiated(
    a: Backward, backend: str, needs: Needs, given: tuple[Tensor | None, ...]
) -> Gradients:
    """Through a norm: the derivative of the backward's formula, its convolutions this op again."""
    dtype = a.x.dtype

    def gradients(
        z: Tensor, dy: Tensor, weight: Tensor, *geometry_and_needs: Any
    ) -> tuple[Tensor | None, Tensor | None]:
        *geometry, need_input, need_weight = geometry_and_needs
        z, dy = z.to(dtype), dy.to(dtype)
        return _convolution_gradients(
            z, dy, weight, Geometry(*geometry), need_input, need_weight, backend
        )

    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, so that the formula is differentiated from here and no further.
        inputs: list[Any] = [t.view_as(t) if isinstance(t, Tensor) else t for t in flat(a)]
        outputs = reference.conv_block_backward(*inputs, gradients=gradients)
        pairs = [
            (out, g.to(out.dtype))
            for out, g in zip(outputs, given, strict=True)
            if g is not None and out.requires_grad
        ]
    wanted = {n: t for n, t in zip(names(Backward), inputs, strict=True) if n in needs}
    if not (wanted and pairs):
        return {}
    found = torch.autograd.grad(
        [out for out, _ in pairs], list(wanted.values()), [g for _, g in pairs],
        create_graph=again, allow_unused=True,
    )  # fmt: skip
    return dict(zip(wanted, found, strict=True))


def _through_activation(g: Tensor, y: Tensor, code: int, slope: float, backend: str) -> Tensor:
    if is_identity(code, slope):
        return g
    a = ActivationBackward(dense_like(g, y), y, code, slope, need_dbias=False)
    dy: Tensor = ACTIVATION_BACKWARD(a, backend)[0]
    return dy


def _plain(geometry: Geometry) -> Spec:
    return Spec(0.0, *IDENTITY, geometry, *IDENTITY, segments=0)


def _convolution(x: Tensor, weight: Tensor, geometry: Geometry, backend: str) -> Tensor:
    a = Forward(channels_last(x), weight, None, NormTensors(), _plain(geometry))
    y: Tensor = FORWARD(a, backend)[0]
    return y


def _convolution_gradients(
    z: Tensor,
    dy: Tensor,
    weight: Tensor,
    geometry: Geometry,
    need_input: bool,
    need_weight: bool,
    backend: str,
) -> tuple[Tensor | None, Tensor | None]:
    """(dz, dweight) of a plain convolution, from the kernels and differentiable to any order."""
    z, dy = channels_last(z), channels_last(dy)
    no_rows = dy.new_empty(0, dtype=stat_dtype(dy))
    a = Backward(
        dy, None, None, z, dy, no_rows, weight, NormTensors(), _plain(geometry), need_input,
        need_weight, need_bias=False,
    )  # fmt: skip
    dz, dweight, *_ = BACKWARD(a, backend)
    return dz if need_input else None, dweight if need_weight else None


FORWARD.differentiate(_save, _gradients, asks_engine=True)
BACKWARD.differentiate(_save_backward, _double_backward)
