"""Operands written once, in a pass over memory: what the TMA kernels read needs no arithmetic."""

from math import prod

import torch
import triton
import triton.language as tl

from fastgan.kernels.conv_block.forward import Activation
from fastgan.kernels.conv_block.tiles import IDENTITY, load_gradient, load_input, round_operand
from fastgan.kernels.core.by_shape import by_shape
from fastgan.kernels.core.geometry import cdiv, device_guard
from fastgan.kernels.core.launch import Launch

Tensor = torch.Tensor

# A program's positions and channels: 128 bytes of a row, and 16 bytes a thread twice over.
BLOCK_M, BLOCK_C, WARPS = 64, 64, 4


@triton.jit(do_not_specialize=("units", "length", "tiles", "column_tiles"))
def form_kernel(
    x_ptr,
    y_ptr,
    rows_ptr,
    out_ptr,
    slope,
    units,
    length,
    tiles,
    column_tiles,
    OPERAND: tl.constexpr,
    ACT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """out = z of x, or dy of (x, y), see `tiles.py`: (segments * length, C), C 16 times ``units``,
    rounded as an operand of products in a PRECISION. Rows are one for each segment of ``length``
    positions, cut into ``tiles``.
    """
    channels = units * 16
    pid = tl.program_id(0)
    column = pid % column_tiles * BLOCK_C + tl.arange(0, BLOCK_C)
    rest = pid // column_tiles
    segment = (rest // tiles).to(tl.int64)
    first = rest % tiles * BLOCK_M
    lane = tl.arange(0, BLOCK_M)
    valid = first + lane < length
    inside = column < channels
    start = (segment * length + first) * channels
    offsets = lane[:, None] * channels + column[None, :]
    mask = valid[:, None] & inside[None, :]
    if OPERAND == "input":
        out = load_input(
            x_ptr + start, offsets, mask, valid, rows_ptr, segment, channels, column, inside,
            slope, ACT, PRECISION,
        )  # fmt: skip
    else:
        out = load_gradient(
            x_ptr + start, y_ptr + start, offsets, mask, valid, rows_ptr, segment, channels,
            column, inside, slope, ACT,
        )  # fmt: skip
        out = round_operand(out, out_ptr.dtype.element_ty, PRECISION)
    tl.store(out_ptr + start + offsets, out, mask)


def form_input(
    x: Tensor, rows: Tensor | None, act: Activation, input_precision: str = "ieee"
) -> Tensor:
    """z = act((x - center) * scale + shift) by ``rows``, or x itself where that is the identity.

    x (N, C, *spatial) channels-last, C a multiple of 16; rows (segments, 3, C) or None. For
    products in TF32, input_precision "tf32", z is rounded to it as it is written, which costs
    nothing: the matrix unit would cut it off, and every product were smaller by a share.
    """
    if rows is None and act.kernel_code == IDENTITY:
        return x
    return _form("input", x, None, rows, act, input_precision)


def form_gradient(
    g: Tensor, y: Tensor, rows: Tensor | None, act: Activation, input_precision: str = "ieee"
) -> Tensor:
    """dy = (g + k1 * (y - center) + k2) * act'(y) by ``rows``, or g itself where that is it; as
    `form_input` otherwise.
    """
    if rows is None and act.kernel_code == IDENTITY:
        return g
    return _form("gradient", g, y, rows, act, input_precision)


def _form(
    operand: str,
    x: Tensor,
    y: Tensor | None,
    rows: Tensor | None,
    act: Activation,
    input_precision: str,
) -> Tensor:
    segments = 1 if rows is None else rows.shape[0]
    out = torch.empty_like(x)
    launch = form_launch(operand, x.shape, segments, act.kernel_code, x.device, input_precision)
    with device_guard(x):
        launch(x, y, rows, out, act.slope)
    return out


@by_shape
def form_launch(
    operand: str,
    shape: tuple[int, ...],
    segments: int,
    act: int,
    device: torch.device,
    input_precision: str = "ieee",
) -> Launch:
    channels = shape[1]
    length = prod(shape) // (segments * channels)
    tiles, column_tiles = cdiv(length, BLOCK_M), cdiv(channels, BLOCK_C)
    named = {
        "units": channels // 16, "length": length, "tiles": tiles, "column_tiles": column_tiles,
        "OPERAND": operand, "ACT": act, "PRECISION": input_precision, "BLOCK_M": BLOCK_M,
        "BLOCK_C": BLOCK_C, "num_warps": WARPS,
    }  # fmt: skip
    return Launch(form_kernel, (segments * tiles * column_tiles,), named, varying=(0, 1, 2))
