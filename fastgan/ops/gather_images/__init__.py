"""gather_images: a batch out of a resident uint8 data set, as one op."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.ops.core import dispatch
from fastgan.ops.core.library import LIBRARY, define
from fastgan.ops.core.raw_checks import checked
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
    args = images, index.contiguous(), flips, dtype, dispatch.setting()
    if dispatch.is_eager(images, index, flips):
        return _run(*args)
    return _FORWARD(*args)


def _check(
    images: Tensor, index: Tensor, flips: Tensor | None, dtype: torch.dtype, backend: str = "auto"
) -> None:
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


# The dispatcher op: what `torch.compile` and `torch.export` see.

define(
    "gather_images(Tensor images, Tensor index, Tensor? flips, ScalarType dtype, str backend) "
    "-> Tensor"
)
_FORWARD = torch.ops.fastgan.gather_images.default


def _run(
    images: Tensor, index: Tensor, flips: Tensor | None, dtype: torch.dtype, backend: str
) -> Tensor:
    if images.device.type == "cpu" and index.numel():
        low, high = (int(end) for end in index.aminmax())
        if low < 0 or high >= len(images):
            raise IndexError(f"index: expected 0 to {len(images) - 1}, got {low} to {high}")
    index, flips = index.contiguous(), None if flips is None else flips.contiguous()
    rows = images.permute(0, 2, 3, 1)  # dense, whatever the strides of a single channel or pixel
    rows = rows if rows.is_contiguous() else rows.contiguous()
    gathered = dispatch.kernels(backend, "gather_images", images).gather_images(
        rows, index, flips, dtype
    )
    return gathered.permute(0, 3, 1, 2)


def _fake(
    images: Tensor, index: Tensor, flips: Tensor | None, dtype: torch.dtype, backend: str
) -> Tensor:
    _, c, h, w = images.shape
    return images.new_empty((index.shape[0], h, w, c), dtype=dtype).permute(0, 3, 1, 2)


LIBRARY.impl("gather_images", checked(_check, _run), "CompositeExplicitAutograd")
torch.library.register_fake("fastgan::gather_images", _fake, lib=LIBRARY)
