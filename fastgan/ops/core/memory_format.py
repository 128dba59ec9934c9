"""Contiguous and channels-last tensors, of any number of spatial dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastgan.ops.core import dispatch, native

_TRANSPOSED = (torch.float32, torch.bfloat16, torch.float16)
MIN_TRANSPOSED = 1 << 13  # values, below which the calls take as long as PyTorch's copy
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
    if is_channels_last(x):
        return x
    if x.is_contiguous() and _transposes(x):
        moved: Tensor = torch.ops.fastgan.transpose(x.view(*x.shape[:2], -1))
        return moved.as_strided(x.shape, channels_last_strides(x.shape))
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def channels_last_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Those of channels-last memory."""
    strides, step = [1], shape[1]
    for size in reversed(shape[2:]):
        strides.insert(1, step)
        step *= size
    return (step, *strides)


def contiguous(x: Tensor) -> Tensor:
    """x itself where it is contiguous, else a copy that is."""
    if x.is_contiguous():
        return x
    if is_channels_last(x) and _transposes(x):
        rows = x.movedim(1, -1).view(x.shape[0], -1, x.shape[1])
        moved: Tensor = torch.ops.fastgan.transpose(rows)
        return moved.view(x.shape)
    return x.contiguous()


def _transposes(x: Tensor) -> bool:
    """Whether x, dense, goes to the other memory format by fastgan's kernel: PyTorch's copy, which
    goes value by value, takes several times as long."""
    return (
        x.is_cpu
        and x.numel() >= MIN_TRANSPOSED
        and x.dtype in _TRANSPOSED
        and dispatch.setting() in ("auto", "cpu")
        and dispatch.is_eager(x)
        and not (x.requires_grad and torch.is_grad_enabled())
        and native.load() is None
    )


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
    return contiguous(t) if x.is_contiguous() else channels_last(t)
