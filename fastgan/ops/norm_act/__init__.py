"""norm_act: batch (or instance) normalisation and activation as one op."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from fastgan.ops.core import dispatch, native
from fastgan.ops.core.memory_format import dense
from fastgan.ops.core.tensors import (
    activation_code,
    check_apart,
    check_flag,
    check_input,
    check_order,
    lies,
    norm_scalars,
    parameter,
    running_pair,
    spatial_size,
    values_per_channel,
)
from fastgan.ops.norm_act import aten
from fastgan.ops.norm_act.arguments import Eval, Spec, Train
from fastgan.ops.norm_act.autograd import EVAL, MOVES, TRAIN, move, settle_for


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

    Args:
        training: normalise by the statistics of x and move running_mean and running_var (if given)
            towards them by `momentum`; else by the running statistics.
        activation: "leaky_relu" with `negative_slope` >= 0 (as `F.leaky_relu`), "relu" and
            "identity" (slope 0 and 1: relu(-inf) is then nan, as of `F.leaky_relu(x, 0)`), "tanh"
            or "sigmoid".
        segments: x is this many equal slices of the batch, each normalised by its own statistics,
            as in as many calls in order, running statistics included; with `average_segments` the
            running statistics move once, towards the mean over the segments.
        order: "norm_act", or "act_norm" for `batch_norm(act(x))`.

    Differentiable to any order in x, weight and bias: the first order is fused and saves x alone;
    the second is a formula in PyTorch ops. Only the gradients asked for are computed.

    Errors: TypeError, ValueError for a wrong dtype, shape, device, activation, slope or order, a
    negative eps (0 too, in training) or momentum outside 0 to 1; in training for one value per
    channel, a batch that `segments` does not divide, or running statistics that share memory with
    one another, x, weight or bias; in evaluation without running statistics. RuntimeError if the
    backend asked for cannot run.

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167; Chan, Golub and LeVeque 1979 for the merging.
    """
    given = running_mean, running_var, weight, bias
    backend = dispatch.setting()
    in_cpp = dispatch.in_cpp(backend, x)
    is_eager = in_cpp or (x is not None and dispatch.is_eager(x, *given))
    settings = (
        order, activation, negative_slope, training, momentum, eps, segments, average_segments
    )  # fmt: skip
    try:
        momentum, spec = _known(*settings) if is_eager else _checked(*settings)
    except TypeError:  # of the cache, where one has no hash: the check says which it is
        momentum, spec = _checked(*settings)
    how = training, momentum, spec, average_segments, backend
    if in_cpp:
        z = _in_cpp(x, given, how)
        if z is not None:
            return z
        is_eager = dispatch.is_eager(x, *given)
    kind = _kind(x, given, how) if training and is_eager else None
    if kind is not None:
        count = _alike.get(kind)
        if count is not None:
            return _trained(x, given, how, count)
    check_input(x)
    affine = parameter("weight", weight, x), parameter("bias", bias, x)
    running = running_pair(x, running_mean, running_var)
    if not training:
        if running is None:
            raise ValueError("running_mean: evaluation needs running_mean and running_var")
        settle_for(running[0])
        x = dense(x)
        z = _eagerly(x, running, affine, how) if is_eager else None
        if z is None:
            mean, var = (t.reshape(1, -1) for t in running)
            z = EVAL(Eval(x, mean, var, *affine, Spec(*spec)), backend, is_eager)
        return z
    count = values_per_channel(x, spec[3])
    if not count:
        running = None
    if running is not None and is_eager:
        check_apart(x, *given)
    taken = dense(x)
    z = _eagerly(taken, running or (None, None), affine, how) if is_eager else None
    if z is None:
        z, mean, var = TRAIN(Train(taken, *affine, Spec(*spec)), backend, is_eager)
        if running is not None:
            move(running, mean, var, momentum, count, average_segments, backend, is_eager)
        if kind is not None:
            _remember(kind, count, (x, *given), (taken, *(running or (None, None)), *affine))
    if running is not None:
        copy_back_running_stats((running_mean, running_var), running)
    return z


# Values per channel of training calls, by kind, that were found right, and take their tensors as
# they are.
_alike: dict[tuple[object, ...], int] = {}
_MAX_KINDS = 1024


def _remember(
    kind: tuple[object, ...],
    count: int,
    given: tuple[Tensor | None, ...],
    taken: tuple[Tensor | None, ...],
) -> None:
    if all(a is b for a, b in zip(given, taken, strict=True)):
        if len(_alike) >= _MAX_KINDS:
            _alike.clear()
        _alike[kind] = count


def _trained(
    x: Tensor, given: tuple[Tensor | None, ...], how: tuple[Any, ...], count: int
) -> Tensor:
    """The op of a call like an earlier one: all but where its tensors lie is known to be right."""
    _, momentum, spec, average, backend = how
    mean, var, weight, bias = given
    if mean is not None and var is not None:
        check_apart(x, mean, var, weight, bias)
    z: Tensor
    z, of_x, var_of_x = TRAIN(Train(x, weight, bias, Spec(*spec)), backend, True)
    if mean is not None and var is not None:
        move((mean, var), of_x, var_of_x, momentum, count, average, backend, True)
    return z


def _kind(
    x: Tensor, given: tuple[Tensor | None, ...], how: tuple[Any, ...]
) -> tuple[object, ...] | None:
    mean, var, weight, bias = given
    known = native.WITH_AUTOGRAD.kind(2, x, weight, bias, mean, var)
    if known:
        return how, torch.is_grad_enabled(), known
    asks = [t is not None and t.requires_grad for t in (mean, var)]
    try:
        return how, torch.is_grad_enabled() and any(asks), lies(x), *map(lies, given)
    except RuntimeError:  # of a tensor without sizes or strides: the checks say which it is
        return None


def _checked(
    order: str,
    activation: str,
    negative_slope: float,
    training: bool,
    momentum: float,
    eps: float,
    segments: int,
    average_segments: bool,
) -> tuple[float, tuple[float, int, float, int, bool]]:
    """(momentum, a Spec's fields)."""
    check_order(order)
    code, slope = activation_code(activation, negative_slope)
    momentum, eps, segments = norm_scalars(training, momentum, eps, segments, average_segments)
    return momentum, (eps, code, slope, segments if training else 1, order == "act_norm")


# A layer gives the same settings at each call: looking them up takes a fifth of checking them.
_known = functools.lru_cache(maxsize=256, typed=True)(_checked)


def _in_cpp(
    x: Tensor,
    given: tuple[Tensor | None, ...],  # running mean and variance, weight, bias
    how: tuple[Any, ...],  # training, momentum, a Spec's fields, average, backend
) -> Tensor | None:
    """The op with its derivative in C++, or None where that does not serve these arguments.

    It does not where one is wrong or has to be converted, which is done here then: looking for that
    in Python takes as long as the kernels of a small layer.
    """
    training, momentum, spec, average, backend = how
    z: Tensor | None = native.WITH_AUTOGRAD.norm_act(
        x, *given, training, momentum, *spec, average, backend
    )
    return z


def _eagerly(
    x: Tensor,
    running: tuple[Tensor | None, Tensor | None],
    affine: tuple[Tensor | None, Tensor | None],
    how: tuple[Any, ...],
) -> Tensor | None:
    """The op of arguments as the kernels take them, in C++ or by PyTorch; None by neither."""
    training, momentum, spec, average, backend = how
    z = _in_cpp(x, (*running, *affine), how) if dispatch.in_cpp(backend, x) else None
    if z is None and x.numel() and dispatch.in_torch(backend, x.device.type):
        z = aten.norm_act(x, running, *affine, training, momentum, Spec(*spec), average)
    return z


def copy_back_running_stats(
    given: tuple[Tensor | None, Tensor | None], moved: tuple[Tensor, Tensor]
) -> None:
    """Hands the moved statistics back where the kernels moved a float32 copy of those given."""
    for own, wide in zip(given, moved, strict=True):
        if own is not None and own is not wide:
            MOVES.flush()
            with torch.no_grad():
                own.copy_(wide)


def move_running_stats(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    mean: Tensor,
    var: Tensor,
    momentum: float,
    average_segments: bool,
) -> None:
    """Moves the running statistics, if there are any, towards those of x, (segments, C)."""
    running = running_pair(x, running_mean, running_var)
    count = values_per_channel(x, mean.shape[0])
    if running is None or not count:
        return
    is_eager = dispatch.is_eager(x, *running, mean)
    if is_eager:
        check_apart(x, running_mean, running_var, None, None)
    of_x = mean.detach(), var.detach()
    backend = dispatch.setting()
    move(running, *of_x, momentum, count, average_segments, backend, is_eager)
    copy_back_running_stats((running_mean, running_var), running)


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
    check_flag("use_input_stats", use_input_stats)
    if use_input_stats and spatial_size(x) == 1:
        raise ValueError(
            f"x: expected more than 1 spatial element when training, got shape {tuple(x.shape)}"
        )
    return norm_act(
        x, running_mean, running_var, weight, bias, use_input_stats, momentum, eps,
        activation=activation, negative_slope=negative_slope, segments=max(1, x.shape[0]),
        order=order, average_segments=True,
    )  # fmt: skip
