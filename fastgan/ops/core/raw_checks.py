"""What the dispatcher operators hold their tensors to before a kernel reads memory by their sizes.

The public functions check their arguments by themselves, and eager calls go past the dispatcher: a
wrong call of `torch.ops.fastgan.*` is refused here, whatever the backend. Layouts are checked by
the kernels that mind them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastgan.ops.conv.geometry import Geometry, output_shape
from fastgan.ops.core.tensors import check_device, check_float, check_tensor, stat_dtype


def input(name: str, x: Tensor, least: int = 2) -> None:
    check_tensor(name, x)
    check_float(name, x.dtype)
    if not least <= x.dim() <= 5:
        shape = tuple(x.shape)
        raise ValueError(f"{name}: expected {least} to 5 dimensions, got shape {shape}")


def sized(name: str, t: Tensor | None, shape: Sequence[int], dtype: torch.dtype, x: Tensor) -> None:
    if t is None:
        return
    check_tensor(name, t)
    if tuple(t.shape) != tuple(shape):
        raise ValueError(f"{name}: expected shape {tuple(shape)}, got {tuple(t.shape)}")
    if t.dtype is not dtype:
        raise TypeError(f"{name}: expected {dtype}, got {t.dtype}")
    check_device(name, t, x)


def vectors(channels: int, x: Tensor, **given: Tensor | None) -> None:
    """Contiguous vectors of a value a channel in the dtype of statistics, or None."""
    for name, t in given.items():
        if t is not None:
            sized(name, t, (channels,), stat_dtype(x), x)
            if not t.is_contiguous():
                raise ValueError(f"{name}: expected contiguous memory, got strides {t.stride()}")


def statistics(x: Tensor, rows: Sequence[int], **given: Tensor | None) -> None:
    """Contiguous (rows, C), one of several counts of rows."""
    for name, t in given.items():
        if t is None:
            continue
        check_tensor(name, t)
        if t.dim() != 2 or t.shape[1] != x.shape[1] or t.shape[0] not in rows:
            wanted = " or ".join(f"({n}, {x.shape[1]})" for n in sorted(set(rows)))
            raise ValueError(f"{name}: expected shape {wanted}, got {tuple(t.shape)}")
        sized(name, t, t.shape, stat_dtype(x), x)
        if not t.is_contiguous():
            raise ValueError(f"{name}: expected contiguous memory, got strides {t.stride()}")


def activations(**codes: int) -> None:
    for name, code in codes.items():
        if not 0 <= code <= 2:
            raise ValueError(f"{name}: expected a code of 0 to 2, got {code}")


def convolution(x: Tensor, weight: Tensor, geometry: Geometry) -> tuple[int, ...]:
    """The shape of y."""
    input("x", x, 3)
    check_tensor("weight", weight)
    check_device("weight", weight, x)
    if weight.dtype is not x.dtype and weight.dtype is not torch.float32:
        raise TypeError(f"weight: expected {x.dtype} as x, or float32, got {weight.dtype}")
    for name, least in (("stride", 1), ("padding", 0), ("output_padding", 0)):
        values = getattr(geometry, name)
        if len(values) != x.dim() - 2 or min(values) < least:
            wanted = f"{x.dim() - 2} numbers of at least {least}"
            raise ValueError(f"{name}: expected {wanted}, got {list(values)}")
    return output_shape(tuple(x.shape), tuple(weight.shape), geometry)


def norm(
    x: Tensor, mean: Tensor | None, var: Tensor | None, gamma: Tensor | None, beta: Tensor | None
) -> None:
    if (mean is None) != (var is None):
        raise ValueError(f"{'mean' if mean is None else 'var'}: expected both, or neither")
    if mean is not None:
        if mean.dim() != 2 or mean.shape[0] < 1 or x.shape[0] % mean.shape[0]:
            wanted = f"(S, {x.shape[1]}) with S a divisor of the batch of {x.shape[0]}"
            raise ValueError(f"mean: expected shape {wanted}, got {tuple(mean.shape)}")
        statistics(x, mean.shape[:1], mean=mean, var=var)
    vectors(x.shape[1], x, gamma=gamma, beta=beta)
