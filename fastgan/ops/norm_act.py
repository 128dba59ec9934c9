"""norm_act: batch (or instance) normalisation and activation as one op."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgan.ops import _dispatch
from fastgan.ops._library import LIBRARY, define
from fastgan.ops._norm_act_second import norm_act_double_backward
from fastgan.ops._tensors import activation_code, check_input, dense, dense_like, parameter

_ORDERS = ("norm_act", "act_norm")


def norm_act(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: str = "leaky_relu",
    negative_slope: float = 0.01,
    segments: int = 1,
    order: str = "norm_act",
    average_segments: bool = False,
) -> Tensor:
    """Batch normalisation, then an activation: `act(batch_norm(x))` in one op.

    The arguments up to `eps` are those of `torch.nn.functional.batch_norm`, and so are the results.

    Shapes: x (N, C, *spatial) with 0 to 3 spatial dimensions; running_mean, running_var, weight and
    bias (C,). Returns z of x's shape and dtype, in x's memory layout (channels-last or contiguous;
    x in any other layout is copied to one of them).

    dtypes: x float32, bfloat16, float16 or float64; parameters and statistics float32 (float64 for
    float64 x; those of a half-precision x may have its dtype and are converted). Sums in float32,
    merged in a fixed order, so runs repeat bit for bit.

    training: normalise by the statistics of x and move running_mean and running_var (if given)
    towards them by `momentum`; else by the running statistics.
    activation: "leaky_relu" with `negative_slope` >= 0 (as `F.leaky_relu`), "relu" and "identity"
    (slope 0 and 1: relu(-inf) is then nan, as of `F.leaky_relu(x, 0)`), "tanh" or "sigmoid".
    segments: x is this many equal slices of the batch, each normalised by its own statistics, as in
    as many calls in order, running statistics included; with `average_segments` the running
    statistics move once, towards the mean over the segments.
    order: "norm_act", or "act_norm" for `batch_norm(act(x))`.

    Differentiable to any order in x, weight and bias: the first order is fused and saves x alone;
    the second is a formula in PyTorch ops. Only the gradients asked for are computed.

    Errors: TypeError, ValueError for a wrong dtype, shape, device, activation, slope or order; in
    training for one value per channel or a batch that `segments` does not divide; in evaluation
    without running statistics. RuntimeError if the backend asked for cannot run.

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167; Chan, Golub and LeVeque 1979 for the merging.
    """
    check_input(x)
    affine, spec = _prepare(x, weight, bias, activation, negative_slope, order)
    running = _running(x, running_mean, running_var)
    if not training:
        if running is None:
            raise ValueError("running_mean: evaluation needs running_mean and running_var")
        mean, var = (t.reshape(1, -1) for t in running)
        return _EVAL(dense(x), mean, var, *affine, eps, *spec[:2], 1, spec[2], _dispatch.setting())
    if segments < 1 or x.shape[0] % segments:
        raise ValueError(f"segments: {segments} does not divide the batch of {x.shape[0]}")
    count = x.shape[0] // segments * _spatial(x)
    if count == 1:
        raise ValueError(
            "x: expected more than 1 value per channel when training, got shape "
            f"{tuple(x.shape)} in {segments} segment(s)"
        )
    z, mean, var = _TRAIN(dense(x), *affine, eps, *spec[:2], segments, spec[2], _dispatch.setting())
    if running is not None and count:
        given = running_mean, running_var
        _update(given, running, mean, var, momentum, count, average_segments)
    return z


def instance_norm_act(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: str = "leaky_relu",
    negative_slope: float = 0.01,
    order: str = "norm_act",
) -> Tensor:
    """Instance normalisation, then an activation: `act(instance_norm(x))` in one op.

    The arguments up to `eps` are those of `torch.nn.functional.instance_norm`, and so are the
    results: every image is normalised by its own statistics per channel, and the running statistics
    move towards the mean of those over the batch. `use_input_stats=False` normalises by the running
    statistics. It is `norm_act` with `segments=N`; see there for the rest.

    Errors: as norm_act's; ValueError also for one spatial element with use_input_stats.
    """
    check_input(x)
    if use_input_stats and _spatial(x) == 1:
        raise ValueError(
            f"x: expected more than 1 spatial element when training, got shape {tuple(x.shape)}"
        )
    return norm_act(
        x, running_mean, running_var, weight, bias, use_input_stats, momentum, eps,
        activation=activation, negative_slope=negative_slope, segments=max(1, x.shape[0]),
        order=order, average_segments=True,
    )  # fmt: skip


def _spatial(x: Tensor) -> int:
    size = 1
    for extent in x.shape[2:]:
        size *= extent
    return size


def check_order(order: str) -> None:
    if order not in _ORDERS:
        raise ValueError(f"order: {order!r} is not one of {', '.join(_ORDERS)}")


def _prepare(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    activation: str,
    negative_slope: float,
    order: str,
) -> tuple[tuple[Tensor | None, Tensor | None], tuple[int, float, bool]]:
    check_order(order)
    code, slope = activation_code(activation, negative_slope)
    affine = parameter("weight", weight, x), parameter("bias", bias, x)
    return affine, (code, slope, order == "act_norm")


def _running(
    x: Tensor, running_mean: Tensor | None, running_var: Tensor | None
) -> tuple[Tensor, Tensor] | None:
    mean, var = parameter("running_mean", running_mean, x), parameter("running_var", running_var, x)
    if (mean is None) != (var is None):
        missing = "running_mean" if mean is None else "running_var"
        raise ValueError(f"{missing}: give both running_mean and running_var, or neither")
    return None if mean is None or var is None else (mean, var)


def _update(
    given: tuple[Tensor | None, Tensor | None],
    wide: tuple[Tensor, Tensor],
    mean: Tensor,
    var: Tensor,
    momentum: float,
    count: int,
    average: bool,
) -> None:
    """Moves the running statistics, through their float32 copies where they are narrower."""
    with torch.no_grad():
        _UPDATE(*wide, mean, var, momentum, count, average, _dispatch.setting())
        for running, updated in zip(given, wide, strict=True):
            if running is not None and updated is not running:
                running.copy_(updated)


# The dispatcher ops: what `torch.compile` and `torch.export` see.

_SPEC = "float eps, int activation, float negative_slope, int segments, bool act_first"

define(
    f"norm_act_train(Tensor x, Tensor? weight, Tensor? bias, {_SPEC}, str backend) "
    "-> (Tensor z, Tensor mean, Tensor var)"
)
define(
    f"norm_act_eval(Tensor x, Tensor mean, Tensor var, Tensor? weight, Tensor? bias, {_SPEC}, "
    "str backend) -> Tensor"
)
define(
    "norm_act_backward(Tensor dz, Tensor x, Tensor mean, Tensor var, Tensor? weight, Tensor? bias, "
    f"{_SPEC}, bool training, bool need_dx, bool need_dparams, str backend) "
    "-> (Tensor dx, Tensor dweight, Tensor dbias)"
)
define(
    "update_running_stats_(Tensor(a!) running_mean, Tensor(b!) running_var, Tensor mean, "
    "Tensor var, float momentum, int count, bool average, str backend) -> ()"
)
_TRAIN = torch.ops.fastgan.norm_act_train.default
_EVAL = torch.ops.fastgan.norm_act_eval.default
_BACKWARD = torch.ops.fastgan.norm_act_backward.default
_UPDATE = torch.ops.fastgan.update_running_stats_.default


def _run_train(x: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _dispatch.kernels(args[-1], "norm_act", x).norm_act_train(x, *args[:-1])


def _run_eval(x: Tensor, *args: Any) -> Tensor:
    return _dispatch.kernels(args[-1], "norm_act", x).norm_act_eval(x, *args[:-1])


def _run_backward(dz: Tensor, x: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _dispatch.kernels(args[-1], "norm_act", x).norm_act_backward(dz, x, *args[:-1])


def _run_update(running_mean: Tensor, *args: Any) -> None:
    module = _dispatch.kernels(args[-1], "norm_act", running_mean)
    module.update_running_stats_(running_mean, *args[:-1])


def _stats_like(x: Tensor, *shape: int) -> Tensor:
    dtype = torch.float64 if x.dtype is torch.float64 else torch.float32
    return x.new_empty(shape, dtype=dtype)


def _fake_train(x: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    shape = args[5], x.shape[1]
    return torch.empty_like(x), _stats_like(x, *shape), _stats_like(x, *shape)


def _fake_backward(dz: Tensor, x: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    need_dx, need_dparams = args[-3:-1]
    params = x.shape[1] if need_dparams else 0
    dx = torch.empty_like(x) if need_dx else x.new_empty(0)
    return dx, _stats_like(x, params), _stats_like(x, params)


def _save_train(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, *spec = inputs
    _, mean, var = output
    ctx.mark_non_differentiable(mean, var)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, mean, var, weight, bias)
    ctx.spec = spec


def _save_eval(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, mean, var, weight, bias, *spec = inputs
    ctx.save_for_backward(x, mean, var, weight, bias)
    ctx.spec = spec


def _gradients(ctx: Any, dz: Tensor, training: bool, needs: tuple[bool, ...]) -> tuple[Any, ...]:
    """(dx, dweight, dbias), None for each that `needs` does not ask for."""
    x, mean, var, weight, bias = ctx.saved_tensors
    *spec, backend = ctx.spec
    need_dx, need_weight, need_bias = needs
    dx, dweight, dbias = _BACKWARD(
        dense_like(dz, x), x, mean, var, weight, bias, *spec, training, need_dx,
        need_weight or need_bias, backend,
    )  # fmt: skip
    return dx if need_dx else None, dweight if need_weight else None, dbias if need_bias else None


def _backward_train(ctx: Any, dz: Tensor | None, *_: Any) -> tuple[Any, ...]:
    rest = (None,) * 6
    if dz is None:
        return (None,) * 3 + rest
    return (*_gradients(ctx, dz, True, ctx.needs_input_grad[:3]), *rest)


def _backward_eval(ctx: Any, dz: Tensor) -> tuple[Any, ...]:
    needs = ctx.needs_input_grad
    dx, dweight, dbias = _gradients(ctx, dz, False, (needs[0], needs[3], needs[4]))
    return (dx, None, None, dweight, dbias, *(None,) * 6)


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:6])
    ctx.spec = inputs[6:]


def _double_backward(ctx: Any, g_dx: Any, g_dweight: Any, g_dbias: Any) -> tuple[Any, ...]:
    *spec, need_dx, need_dparams, _ = ctx.spec
    g_dx = g_dx if need_dx else None
    g_dweight, g_dbias = (g_dweight, g_dbias) if need_dparams else (None, None)
    if g_dx is None and g_dweight is None and g_dbias is None:
        return (None,) * 15
    g_dz, g_x, g_weight, g_bias = norm_act_double_backward(
        g_dx, g_dweight, g_dbias, *ctx.saved_tensors, *spec
    )
    return (g_dz, g_x, None, None, g_weight, g_bias, *(None,) * 9)


for _name, _implementation in {
    "norm_act_train": _run_train,
    "norm_act_eval": _run_eval,
    "norm_act_backward": _run_backward,
    "update_running_stats_": _run_update,
}.items():
    LIBRARY.impl(_name, _implementation, "CompositeExplicitAutograd")


def _register() -> None:
    fake, autograd = torch.library.register_fake, torch.library.register_autograd
    fake("fastgan::norm_act_train", _fake_train, lib=LIBRARY)
    fake("fastgan::norm_act_eval", lambda x, *_: torch.empty_like(x), lib=LIBRARY)
    fake("fastgan::norm_act_backward", _fake_backward, lib=LIBRARY)
    fake("fastgan::update_running_stats_", lambda *_: None, lib=LIBRARY)
    for name, backward, save in (
        ("norm_act_train", _backward_train, _save_train),
        ("norm_act_eval", _backward_eval, _save_eval),
        ("norm_act_backward", _double_backward, _save_backward),
    ):
        autograd(f"fastgan::{name}", backward, setup_context=save, lib=LIBRARY)


_register()
