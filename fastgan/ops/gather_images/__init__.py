"""gather_images: a batch out of a resident uint8 data set, as one op."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastgan.ops.core import dispatch
from fastgan.ops.core.library import Operator
from fastgan.ops.core.tensors import DTYPES, check_tensor

_OUTPUTS = DTYPES[:3]  # float64 is no format to train in


def gather_images(
    images: Tensor,
    index: Tensor,
    flips: Tensor | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """`images[index]`, mirrored where `flips` says so, from 0..255 to [-1, 1], in one pass.

    Shapes: images (N, C, H, W) uint8 in channels-last memory, any number of channels; index (B,)
    int64; flips (B,) bool, True mirrors an image left-right, or None. Returns (B, C, H, W) of
    `dtype` (float32, bfloat16 or float16) in channels-last memory: x / 127.5 - 1, each of the two
    operations rounded to float32 and the result to `dtype`: all backends give the same bits.
    Reads one byte a value and writes one value. Not differentiable: its input is integers.

    Errors: TypeError, ValueError for a wrong dtype, shape, device or memory layout; an index
    outside 0..N-1 is an IndexError on the CPU, while on a GPU, where nothing waits for the host,
    its image is NaN (on the reference backend, PyTorch's own assertion); RuntimeError if the
    backend asked for cannot run.
    """
    _check(images, index, flips, dtype)
    if not images.is_contiguous(memory_format=torch.channels_last):
        # Converting here would copy the whole set for every batch.
        raise ValueError(
            "images: expected channels-last memory, as images.to(memory_format="
            f"torch.channels_last) gives once and for all, got strides {images.stride()}"
        )
    flips = None if flips is None else flips.contiguous()
    gathered: Tensor = _GATHER(
        _Arguments(images, index.contiguous(), flips, dtype), dispatch.setting()
    )
    return gathered


class _Arguments(NamedTuple):
    images: Tensor
    index: Tensor  # type: ignore[assignment]
    flips: Tensor | None
    dtype: torch.dtype


def _check(images: Tensor, index: Tensor, flips: Tensor | None, dtype: torch.dtype) -> None:
    check_tensor("images", images)
    if images.dtype is not torch.uint8:
        raise TypeError(f"images: expected torch.uint8, got {images.dtype}")
    if images.dim() != 4:
        raise ValueError(f"images: expected (N, C, H, W), got shape {tuple(images.shape)}")
    _check_each("index", index, torch.int64, images)
    if flips is not None:
        _check_each("flips", flips, torch.bool, images)
        if flips.shape != index.shape:
            raise ValueError(
                f"flips: expected shape {tuple(index.shape)}, got {tuple(flips.shape)}"
            )
    if not isinstance(dtype, torch.dtype) or dtype not in _OUTPUTS:
        raise TypeError(f"dtype: expected float32, bfloat16 or float16, got {dtype}")


def _check_each(name: str, value: Tensor, dtype: torch.dtype, images: Tensor) -> None:
    check_tensor(name, value)
    if value.dtype is not dtype:
        raise TypeError(f"{name}: expected {dtype}, got {value.dtype}")
    if value.dim() != 1:
        raise ValueError(f"{name}: expected shape (B,), got {tuple(value.shape)}")
    if value.device != images.device:
        raise ValueError(f"{name}: expected on {images.device} as images, got {value.device}")


def _run(a: _Arguments, backend: str) -> Tensor:
    images, index, flips, dtype = a
    if images.device.type == "cpu" and index.numel():
        low, high = (int(end) for end in index.aminmax())
        if low < 0 or high >= len(images):
            raise IndexError(f"index: expected 0 to {len(images) - 1}, got {low} to {high}")
    index, flips = index.contiguous(), None if flips is None else flips.contiguous()
    rows = images.permute(0, 2, 3, 1)  # dense, whatever the strides of a single channel or pixel
    rows = rows if rows.is_contiguous() else rows.contiguous()
    kernels = dispatch.kernels(backend, "gather_images", images)
    return kernels.gather_images(rows, index, flips, dtype).permute(0, 3, 1, 2)


def _fake(a: _Arguments) -> Tensor:
    _, c, h, w = a.images.shape
    return a.images.new_empty((a.index.shape[0], h, w, c), dtype=a.dtype).permute(0, 3, 1, 2)


_GATHER = Operator(
    "gather_images", _Arguments, "Tensor", check=lambda a: _check(*a), run=_run, fake=_fake
)
