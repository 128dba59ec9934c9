"""What the public ops check alike: activations, parameters and tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real
from types import NoneType
from typing import TypeGuard

import torch
from torch import Tensor

from fastgan.ops.core import native
from fastgan.ops.core.memory_format import is_channels_last

_ORDERS = ("norm_act", "act_norm")
_CODES = {"leaky_relu": 0, "relu": 0, "identity": 0, "tanh": 1, "sigmoid": 2}
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_SYMBOLIC = (torch.SymInt, torch.SymFloat)  # numbers of a shape that is traced
_INFINITY = math.inf
_STRIDED = torch.strided
_tracing_state = torch._C._get_tracing_state  # of torch.jit.trace, to which sizes are tensors


def kind(value: object) -> str:
    return type(value).__name__


def real(name: str, value: float) -> float:
    """A finite number as a float: TypeError for no number and for a flag, ValueError else."""
    if isinstance(value, _SYMBOLIC):
        return value
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number, got {kind(value)}")
    if not -_INFINITY < value < _INFINITY:
        raise ValueError(f"{name}: expected a finite number, got {value}")
    return float(value)


def whole(name: str, value: int, least: int, most: float = _INFINITY) -> int:
    """A whole number as an int: TypeError for another type, ValueError out of `least` to `most`."""
    if isinstance(value, torch.SymInt):
        return value
    if isinstance(value, Tensor) and _tracing_state() is not None:
        return value
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}: expected a whole number, got {kind(value)}")
    if value < least:
        raise ValueError(f"{name}: expected at least {least}, got {value}")
    if value > most:
        raise ValueError(f"{name}: expected at most {most}, got {value}")
    return int(value)


def check_flag(name: str, value: bool) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {kind(value)}")


def _check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a str, got {kind(value)}")
    if value not in choices:
        raise ValueError(f"{name}: {value!r} is not one of {', '.join(sorted(choices))}")


def activation_code(
    activation: str,
    negative_slope: float,
    names: tuple[str, str] = ("activation", "negative_slope"),
) -> tuple[int, float]:
    """(kernel code, slope). "relu" is LeakyReLU of slope 0 and "identity" of slope 1.

    Args:
        names: of the two arguments, for the messages.
    """
    if type(activation) is not str or activation not in _CODES:
        _check_choice(names[0], activation, _CODES)
    if type(negative_slope) is not float or not 0.0 <= negative_slope < _INFINITY:
        negative_slope = real(names[1], negative_slope)
        if activation == "leaky_relu" and not negative_slope >= 0:
            raise ValueError(f"{names[1]}: expected a number >= 0, got {negative_slope}")
    if activation == "relu":
        return 0, 0.0
    if activation == "identity":
        return 0, 1.0
    return _CODES[activation], negative_slope


def is_slope(value: object) -> TypeGuard[float]:
    """Whether a LeakyReLU of torch.nn, which takes any number, has a slope that the ops take."""
    return isinstance(value, (int, float)) and 0 <= value < _INFINITY


def norm_scalars(
    training: bool, momentum: float, eps: float, segments: int, average: bool, of: str = ""
) -> tuple[float, float, int]:
    """(momentum, eps, segments) of a norm, checked; a right call costs a few comparisons.

    Outside 0 to 1 momentum makes no average (the variance may even become negative), though
    torch.nn takes it; as there eps is positive in training and may be 0 in evaluation. of: comes
    before the names in messages.
    """
    if (
        type(training) is bool and type(average) is bool and type(segments) is int
        and type(momentum) is float and 0.0 <= momentum <= 1.0
        and type(eps) is float and 0.0 < eps < _INFINITY
        and segments > 0
    ):  # fmt: skip
        return momentum, eps, segments
    check_flag(f"{of}training", training)
    check_flag(f"{of}average_segments", average)
    eps = real(f"{of}eps", eps)
    if eps < 0 or (training and eps == 0):
        sign = "positive in training" if training else "at least 0"
        raise ValueError(f"{of}eps: expected a number that is {sign}, got {eps}")
    return momentum_of_average(momentum, of), eps, whole(f"{of}segments", segments, 1)


def momentum_of_average(momentum: float, of: str = "") -> float:
    momentum = real(f"{of}momentum", momentum)
    if not isinstance(momentum, _SYMBOLIC) and not 0 <= momentum <= 1:
        raise ValueError(f"{of}momentum: expected a number from 0 to 1, got {momentum}")
    return momentum


def check_order(order: str) -> None:
    if type(order) is not str or order not in _ORDERS:
        _check_choice("order", order, _ORDERS)


def check_tensor(name: str, t: Tensor, wanted: str = "a Tensor") -> None:
    """TypeError unless t is a tensor whose elements lie in memory by strides."""
    if type(t) is not Tensor and not isinstance(t, Tensor):  # which takes several times as long
        raise TypeError(f"{name}: expected {wanted}, got {kind(t)}")
    if t.layout is not _STRIDED or t.is_nested:
        layout = "nested" if t.is_nested else t.layout
        raise TypeError(f"{name}: expected a dense tensor, got a {layout} one")


def check_float(name: str, dtype: torch.dtype) -> None:
    if dtype not in DTYPES:
        names = ", ".join(str(d).removeprefix("torch.") for d in DTYPES)
        raise TypeError(f"{name}: expected one of {names}, got {dtype}")


def check_input(x: Tensor) -> None:
    check_tensor("x", x)
    if x.dtype not in DTYPES:
        check_float("x", x.dtype)
    if not 2 <= x.dim() <= 5:
        shape = tuple(x.shape)
        raise ValueError(f"x: expected (N, C) and 0 to 3 spatial dimensions, got shape {shape}")


def check_factory(device: torch.device | str | None, dtype: torch.dtype | None) -> None:
    """The `device` and `dtype` of a module's constructor."""
    if dtype is not None:
        if not isinstance(dtype, torch.dtype):
            raise TypeError(f"dtype: expected a torch.dtype or None, got {kind(dtype)}")
        check_float("dtype", dtype)
    if not isinstance(device, (str, int, torch.device, NoneType)) or device is True:
        raise TypeError(f"device: expected a device or None, got {kind(device)}")
    if device is not None:
        try:
            torch.device(device)
        except RuntimeError as error:
            raise ValueError(f"device: {device!r} is none: {error}") from None


def check_device(name: str, t: Tensor, x: Tensor) -> None:
    if t.device != x.device:
        raise ValueError(f"{name}: is on {t.device}, x is on {x.device}")


def lies(t: Tensor | None) -> tuple[object, ...] | None:
    """What of a tensor the checks of an op and its plans depend on, beside where it lies."""
    return None if t is None else (type(t), t.shape, t.stride(), t.dtype, t.device)


def spatial_size(x: Tensor) -> int:
    size = 1
    for extent in x.shape[2:]:
        size *= extent
    return size


def autocast_to(device: str) -> torch.dtype | None:
    """The dtype of the autocast region that a type of devices stands in, if any; autocast knows
    nothing of meta."""
    if device == "meta" or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def autocast_dtype(x: Tensor) -> torch.dtype:
    """The dtype a convolution takes x in: that of the autocast region it stands in, if any."""
    return x.dtype if x.dtype is torch.float64 else autocast_to(x.device.type) or x.dtype


def stat_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype is torch.float64 else torch.float32


def parameter(name: str, p: Tensor | None, x: Tensor) -> Tensor | None:
    """A per-channel parameter or statistic of x, checked, in the dtype the kernels take.

    That is float32, or float64 for float64 x. For a half-precision x one of x's own dtype is
    converted (differentiably).
    """
    if p is None:
        return None
    check_tensor(name, p, "a Tensor or None")
    # A trace would warn of the comparison.
    if p.dim() != 1 or (_tracing_state() is None and p.size(0) != x.size(1)):
        wanted = f"({x.shape[1]},) for x of shape {tuple(x.shape)}"
        raise ValueError(f"{name}: expected shape {wanted}, got {tuple(p.shape)}")
    check_device(name, p, x)
    wanted_dtype = stat_dtype(x)
    if p.dtype not in (wanted_dtype, x.dtype):
        raise TypeError(f"{name}: expected {wanted_dtype} for x of {x.dtype}, got {p.dtype}")
    if p.dtype is not wanted_dtype:
        p = p.to(wanted_dtype)
    return p if p.is_contiguous() else p.contiguous()


def convolution_bias(bias: Tensor | None, channels: int, x: Tensor) -> Tensor | None:
    """The bias of a convolution of x to so many channels, checked, in the dtype kernels take."""
    if bias is None:
        return None
    check_tensor("bias", bias, "a Tensor or None")
    check_float("bias", bias.dtype)
    if tuple(bias.shape) != (channels,):
        raise ValueError(f"bias: expected shape ({channels},), got {tuple(bias.shape)}")
    check_device("bias", bias, x)
    return bias.to(stat_dtype(x))


def check_weight(weight: Tensor, x: Tensor) -> None:
    """The weight of a convolution of x, but for its shape, which `output_shape` checks."""
    check_tensor("weight", weight)
    check_float("weight", weight.dtype)
    check_device("weight", weight, x)


def running_pair(
    x: Tensor, running_mean: Tensor | None, running_var: Tensor | None
) -> tuple[Tensor, Tensor] | None:
    """The running statistics, checked and in the dtype of statistics; None if there are none."""
    mean, var = parameter("running_mean", running_mean, x), parameter("running_var", running_var, x)
    if (mean is None) != (var is None):
        missing = "running_mean" if mean is None else "running_var"
        raise ValueError(f"{missing}: give both running_mean and running_var, or neither")
    if mean is None or var is None:
        return None
    for name, given in (("running_mean", running_mean), ("running_var", running_var)):
        if torch.is_grad_enabled() and given is not None and given.requires_grad:
            raise ValueError(f"{name}: has no gradient, as in torch.nn, but requires one")
    return mean, var


_MOVED = "running_mean", "running_var"


def check_apart(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
) -> None:
    """ValueError where moving the running statistics would write over another argument.

    Of tensors with memory alone.
    """
    tensors = running_mean, running_var, x, weight, bias
    if native.WITH_AUTOGRAD.apart(*tensors):
        return
    for name, t in zip(_MOVED, tensors[:2], strict=True):
        if t is not None and t.stride(0) == 0 and t.numel() > 1:
            raise ValueError(f"{name}: its channels share one element, got strides {t.stride()}")
    held = [t for t in tensors if t is not None]
    if len({t.untyped_storage().data_ptr() for t in held}) == len(held):
        return
    names = *_MOVED, "x", "weight", "bias"
    given = [(name, t) for name, t in zip(names, tensors, strict=True) if t is not None]
    for i, (name, t) in enumerate(given[:2]):
        for other, u in given[i + 1 :]:
            if _overlap(t, u):
                raise ValueError(f"{name}: shares memory with {other}")


def _overlap(t: Tensor, u: Tensor) -> bool:
    """Whether two tensors share elements: of interleaved ones only if they begin at the same."""
    start, other = t.data_ptr(), u.data_ptr()
    if not (t.is_contiguous() and (u.is_contiguous() or is_channels_last(u))):
        return start == other and t.numel() > 0
    ends = (v.data_ptr() + v.numel() * v.element_size() for v in (t, u))
    return max(start, other) < min(ends)


def values_per_channel(x: Tensor, segments: int) -> int:
    """How many values training statistics are over; ValueError where there is only one."""
    return count_per_channel("x", tuple(x.shape), segments)


def count_per_channel(name: str, shape: tuple[int, ...], segments: int) -> int:
    """`values_per_channel` of a tensor of a name and shape."""
    check_segments(segments, shape[0])
    count = shape[0] // segments * math.prod(shape[2:])
    if count == 1:
        raise ValueError(
            f"{name}: expected more than 1 value per channel when training, got shape "
            f"{tuple(shape)} in {segments} segment(s)"
        )
    return count


def check_segments(segments: int, batch: int) -> None:
    if segments < 1 or batch % segments:
        raise ValueError(f"segments: {segments} does not divide the batch of {batch}")


def own_output(y: Tensor) -> Tensor:
    """y to be an output under autograd: of a view, its memory under another tensor.

    Autograd refuses a change in place of an output that it knows as a view, and of views of that.
    """
    return y.data if y._is_view() else y


def is_captured(t: Tensor) -> bool:
    """Whether work on t is being recorded in a CUDA graph, so that the host cannot read a value."""
    return t.is_cuda and torch.cuda.is_current_stream_capturing()
