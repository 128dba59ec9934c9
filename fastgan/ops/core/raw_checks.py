"""What the dispatcher operators hold their tensors to before a kernel reads memory by their sizes.

The public functions check their arguments by themselves, and eager calls go past the dispatcher: a
wrong call of `torch.ops.fastgan.*` is refused here, whatever the backend. Layouts are checked by
the kernels that mind them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastgan.ops.conv.geometry import Geometry, output_shape
from fastgan.ops.core.tensors import (
    check_device,
    check_float,
    check_segments,
    check_tensor,
    stat_dtype,
)


def checked(check: Callable[..., None], run: Callable[..., Any]) -> Callable[..., Any]:
    """`run`, after `check` of the same arguments."""

    def call(*args: Any) -> Any:
        check(*args)
        return run(*args)

    return call


def _input(name: str, x: Tensor, least: int = 2) -> None:
    check_tensor(name, x)
    check_float(name, x.dtype)
    if not least <= x.dim() <= 5:
        shape = tuple(x.shape)
        raise ValueError(f"{name}: expected {least} to 5 dimensions, got shape {shape}")


def _sized(
    name: str, t: Tensor | None, shape: Sequence[int], dtype: torch.dtype, x: Tensor
) -> None:
    if t is None:
        return
    check_tensor(name, t)
    if tuple(t.shape) != tuple(shape):
        raise ValueError(f"{name}: expected shape {tuple(shape)}, got {tuple(t.shape)}")
    if t.dtype is not dtype:
        raise TypeError(f"{name}: expected {dtype}, got {t.dtype}")
    check_device(name, t, x)


def _vectors(channels: int, x: Tensor, **vectors: Tensor | None) -> None:
    """Contiguous vectors of a value a channel in the dtype of statistics, or None."""
    for name, t in vectors.items():
        if t is not None:
            _sized(name, t, (channels,), stat_dtype(x), x)
            if not t.is_contiguous():
                raise ValueError(f"{name}: expected contiguous memory, got strides {t.stride()}")


def _statistics(x: Tensor, rows: Sequence[int], **statistics: Tensor | None) -> None:
    """Contiguous (rows, C), one of several counts of rows."""
    for name, t in statistics.items():
        if t is None:
            continue
        check_tensor(name, t)
        if t.dim() != 2 or t.shape[1] != x.shape[1] or t.shape[0] not in rows:
            wanted = " or ".join(f"({n}, {x.shape[1]})" for n in sorted(set(rows)))
            raise ValueError(f"{name}: expected shape {wanted}, got {tuple(t.shape)}")
        _sized(name, t, t.shape, stat_dtype(x), x)
        if not t.is_contiguous():
            raise ValueError(f"{name}: expected contiguous memory, got strides {t.stride()}")


def _activations(**codes: int) -> None:
    for name, code in codes.items():
        if not 0 <= code <= 2:
            raise ValueError(f"{name}: expected a code of 0 to 2, got {code}")


def norm_act_train(
    x: Tensor, weight: Any, bias: Any, eps: float, activation: int, slope: float, segments: int,
    act_first: bool, backend: str,
) -> None:  # fmt: skip
    _input("x", x)
    _activations(activation=activation)
    check_segments(segments, x.shape[0])
    _vectors(x.shape[1], x, weight=weight, bias=bias)


def norm_act_eval(x: Tensor, mean: Tensor, var: Tensor, *args: Any) -> None:
    norm_act_train(x, *args)
    _statistics(x, (1, args[5]), mean=mean)
    _statistics(x, mean.shape[:1], var=var)


def norm_act_backward(dz: Tensor, x: Tensor, *args: Any) -> None:
    *given, _, _, _, backend = args
    norm_act_eval(x, *given, backend)
    _sized("dz", dz, x.shape, x.dtype, x)


def update_running_stats_(
    running_mean: Tensor, running_var: Tensor, mean: Tensor, var: Tensor, momentum: float,
    count: int, average: bool, backend: str,
) -> None:  # fmt: skip
    _input("mean", mean)
    _statistics(mean, mean.shape[:1], mean=mean, var=var)
    _vectors(mean.shape[1], mean, running_mean=running_mean, running_var=running_var)
    if count < 2:
        raise ValueError(f"count: expected more than one value per channel, got {count}")


def bias_act(x: Tensor, bias: Any, activation: int, slope: float, backend: str) -> None:
    _input("x", x)
    _activations(activation=activation)
    _vectors(x.shape[1], x, bias=bias)


def bias_act_backward(dz: Tensor, z: Tensor, activation: int, *_: Any) -> None:
    _input("z", z)
    _activations(activation=activation)
    _sized("dz", dz, z.shape, z.dtype, z)


def _convolution(x: Tensor, weight: Tensor, steps: Sequence[Any]) -> tuple[int, ...]:
    """The shape of y, of stride, padding, output_padding and transposed."""
    _input("x", x, 3)
    check_tensor("weight", weight)
    check_device("weight", weight, x)
    if weight.dtype is not x.dtype and weight.dtype is not torch.float32:
        raise TypeError(f"weight: expected {x.dtype} as x, or float32, got {weight.dtype}")
    names = "stride", "padding", "output_padding"
    for name, values, least in zip(names, steps, (1, 0, 0), strict=False):
        if len(values) != x.dim() - 2 or min(values) < least:
            wanted = f"{x.dim() - 2} numbers of at least {least}"
            raise ValueError(f"{name}: expected {wanted}, got {list(values)}")
    stride, padding, output_padding, transposed = steps
    geometry = Geometry(tuple(stride), tuple(padding), tuple(output_padding), transposed)
    return output_shape(tuple(x.shape), tuple(weight.shape), geometry)


def _norm(
    x: Tensor, mean: Tensor | None, var: Tensor | None, gamma: Tensor | None, beta: Tensor | None
) -> None:
    if (mean is None) != (var is None):
        raise ValueError(f"{'mean' if mean is None else 'var'}: expected both, or neither")
    if mean is not None:
        if mean.dim() != 2 or mean.shape[0] < 1 or x.shape[0] % mean.shape[0]:
            wanted = f"(S, {x.shape[1]}) with S a divisor of the batch of {x.shape[0]}"
            raise ValueError(f"mean: expected shape {wanted}, got {tuple(mean.shape)}")
        _statistics(x, mean.shape[:1], mean=mean, var=var)
    _vectors(x.shape[1], x, gamma=gamma, beta=beta)


def conv_block(x: Tensor, weight: Tensor, bias: Any, *args: Any) -> None:
    norm, (_, before, _), steps, (after, _, segments, _) = (
        args[:4], args[4:7], args[7:11], args[11:],
    )  # fmt: skip
    shape = _convolution(x, weight, steps)
    _norm(x, *norm)
    _activations(pre_activation=before, activation=after)
    _vectors(shape[1], x, bias=bias)
    if segments:
        check_segments(segments, shape[0])


def conv_block_backward(
    g_y: Tensor, g_mean: Any, g_var: Any, x: Tensor, y: Tensor, y_mean: Tensor, weight: Tensor,
    *args: Any,
) -> None:  # fmt: skip
    conv_block(x, weight, None, *args[:14], args[-1])
    shape, segments = _convolution(x, weight, args[7:11]), args[13]
    _sized("y", y, shape, x.dtype, x)
    _sized("g_y", g_y, shape, x.dtype, x)
    if segments:
        rows = {"y_mean": y_mean, "g_mean": g_mean, "g_var": g_var}
        for name, t in rows.items():
            _sized(name, t, (segments, shape[1]), stat_dtype(x), x)


def norm_act_conv(x: Tensor, weight: Tensor, bias: Any, *args: Any) -> None:
    norm, (_, before, _, training, segments), steps, (after, *_) = (
        args[:4], args[4:9], args[9:13], args[13:],
    )  # fmt: skip
    shape = _convolution(x, weight, steps)
    _norm(x, *norm)
    _activations(pre_activation=before, activation=after)
    _vectors(shape[1], x, bias=bias)
    if training:
        check_segments(segments, x.shape[0])


def norm_act_conv_backward(
    g_y: Tensor, x: Tensor, y: Any, z: Any, weight: Tensor, *args: Any
) -> None:
    norm_act_conv(x, weight, None, *args)
    shape = _convolution(x, weight, args[9:13])
    _sized("g_y", g_y, shape, x.dtype, x)
    _sized("y", y, shape, x.dtype, x)
    _sized("z", z, x.shape, x.dtype, x)
