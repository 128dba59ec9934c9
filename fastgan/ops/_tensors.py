"""What the public ops check alike: activations, parameters and memory layout."""

from __future__ import annotations

import torch
from torch import Tensor

_ORDERS = ("norm_act", "act_norm")
_CODES = {"leaky_relu": 0, "relu": 0, "identity": 0, "tanh": 1, "sigmoid": 2}
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def activation_code(activation: str, negative_slope: float) -> tuple[int, float]:
    """(kernel code, slope). "relu" is LeakyReLU of slope 0 and "identity" of slope 1."""
    if activation not in _CODES:
        raise ValueError(f"activation: {activation!r} is not one of {', '.join(sorted(_CODES))}")
    if activation == "relu":
        return 0, 0.0
    if activation == "identity":
        return 0, 1.0
    if activation == "leaky_relu" and not negative_slope >= 0:
        raise ValueError(f"negative_slope: expected a number >= 0, got {negative_slope}")
    return _CODES[activation], float(negative_slope)


def check_order(order: str) -> None:
    if order not in _ORDERS:
        raise ValueError(f"order: {order!r} is not one of {', '.join(_ORDERS)}")


def check_input(x: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"x: expected a Tensor, got {type(x).__name__}")
    if x.dtype not in DTYPES:
        names = ", ".join(str(d).removeprefix("torch.") for d in DTYPES)
        raise TypeError(f"x: expected one of {names}, got {x.dtype}")
    if not 2 <= x.dim() <= 5:
        shape = tuple(x.shape)
        raise ValueError(f"x: expected (N, C) and 0 to 3 spatial dimensions, got shape {shape}")


def spatial_size(x: Tensor) -> int:
    size = 1
    for extent in x.shape[2:]:
        size *= extent
    return size


def autocast_dtype(x: Tensor) -> torch.dtype:
    """The dtype a convolution takes x in: that of the autocast region it stands in, if any."""
    device = x.device.type
    if x.dtype is torch.float64 or not torch.is_autocast_enabled(device):
        return x.dtype
    return torch.get_autocast_dtype(device)


def stat_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype is torch.float64 else torch.float32


def parameter(name: str, p: Tensor | None, x: Tensor) -> Tensor | None:
    """A per-channel parameter or statistic of x, checked, in the dtype the kernels take.

    That is float32, or float64 for float64 x. For a half-precision x one of x's own dtype is
    converted (differentiably).
    """
    if p is None:
        return None
    if not isinstance(p, Tensor):
        raise TypeError(f"{name}: expected a Tensor or None, got {type(p).__name__}")
    if p.dim() != 1 or p.size(0) != x.size(1):
        wanted = f"({x.shape[1]},) for x of shape {tuple(x.shape)}"
        raise ValueError(f"{name}: expected shape {wanted}, got {tuple(p.shape)}")
    if p.device != x.device:
        raise ValueError(f"{name}: is on {p.device}, x is on {x.device}")
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
    if tuple(bias.shape) != (channels,):
        raise ValueError(f"bias: expected shape ({channels},), got {tuple(bias.shape)}")
    return bias.to(stat_dtype(x))


def running_pair(
    x: Tensor, running_mean: Tensor | None, running_var: Tensor | None
) -> tuple[Tensor, Tensor] | None:
    """The running statistics, checked and in the dtype of statistics; None if there are none."""
    mean, var = parameter("running_mean", running_mean, x), parameter("running_var", running_var, x)
    if (mean is None) != (var is None):
        missing = "running_mean" if mean is None else "running_var"
        raise ValueError(f"{missing}: give both running_mean and running_var, or neither")
    return None if mean is None or var is None else (mean, var)


def values_per_channel(x: Tensor, segments: int) -> int:
    """How many values training statistics are over; ValueError where there is only one."""
    if segments < 1 or x.shape[0] % segments:
        raise ValueError(f"segments: {segments} does not divide the batch of {x.shape[0]}")
    count = x.shape[0] // segments * spatial_size(x)
    if count == 1:
        raise ValueError(
            "x: expected more than 1 value per channel when training, got shape "
            f"{tuple(x.shape)} in {segments} segment(s)"
        )
    return count


CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def is_channels_last(x: Tensor) -> bool:
    """Whether x is dense with its channels innermost (any number of spatial dimensions)."""
    known = CHANNELS_LAST.get(x.dim())
    # Several times faster than making a view to ask, but under vmap not there.
    if known is not None and not torch._C._are_functorch_transforms_active():
        return x.is_contiguous(memory_format=known)
    return x.movedim(1, -1).is_contiguous()


def channels_last(x: Tensor) -> Tensor:
    """x itself where it is dense with its channels innermost, else a copy that is."""
    return x if is_channels_last(x) else x.movedim(1, -1).contiguous().movedim(-1, 1)


def dense(x: Tensor) -> Tensor:
    """x itself where it is contiguous or channels-last, else a copy that is."""
    if x.is_contiguous():
        return x
    return channels_last(x) if x.stride(1) == 1 or is_channels_last(x) else x.contiguous()


def dense_like(t: Tensor, x: Tensor) -> Tensor:
    """t in the dtype and memory layout of x, which is dense."""
    if t.dtype is x.dtype and t.stride() == x.stride():
        return t
    t = t.to(x.dtype)
    if x.is_contiguous():
        return t.contiguous()
    return t.movedim(1, -1).contiguous().movedim(-1, 1)
