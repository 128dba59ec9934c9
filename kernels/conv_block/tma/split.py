"""Device code of the product in slices, for layers of few positions: `product.py` over a share of
the taps and channels, and a pass that adds the slices in order and ends as the product would.
"""

import triton
import triton.language as tl

from fastgan.kernels.conv_block.tma.product import (
    SHAPE_ARGUMENTS,
    axes_of,
    finish,
    locate,
    multiply,
)


@triton.jit(do_not_specialize=("slice_steps", "programs", *SHAPE_ARGUMENTS))
def tma_slice_kernel(
    x_desc,
    weight_desc,
    out_ptr,
    slice_steps,
    programs,
    units_out,
    images,
    OH,
    OW,
    tiles_h,
    tiles_w,
    tiles,
    column_tiles,
    TRANSPOSED: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
):
    """``slice_steps`` steps of what ``programs`` of the product sum, as float32 tiles (slices,
    programs, BLOCK_M, BLOCK_N).
    """
    PHASES: tl.constexpr = SH * SW if TRANSPOSED else 1
    BLOCK_M: tl.constexpr = BLOCK_I * BLOCK_H * BLOCK_W
    pid = tl.program_id(0)
    column_tile, phase, _, segment, i0, h0, w0 = locate(
        pid % programs, images, tiles_h, tiles_w, tiles, column_tiles, PHASES, BLOCK_I, BLOCK_H,
        BLOCK_W,
    )  # fmt: skip
    _, _, bh, rh, taps_h, _, _, bw, rw, taps_w = axes_of(
        phase, OH, OW, TRANSPOSED, KH, KW, SH, SW, PH, PW
    )
    first = pid // programs * slice_steps
    last = tl.minimum(first + slice_steps, taps_h * taps_w * (CHANNELS // BLOCK_K))
    acc = multiply(
        x_desc, weight_desc, first, last, segment * images + i0, h0, w0, column_tile * BLOCK_N,
        units_out * 16, bh, bw, rh, rw, taps_w, TRANSPOSED, KW, SH, SW, PH, PW, CHANNELS, BLOCK_M,
        BLOCK_N, BLOCK_K, STAGES,
    )  # fmt: skip
    at = tl.arange(0, BLOCK_M)[:, None] * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    tl.store(out_ptr + pid.to(tl.int64) * (BLOCK_M * BLOCK_N) + at, acc.T)


@triton.jit(do_not_specialize=("slices", "programs", *SHAPE_ARGUMENTS))
def tma_add_slices_kernel(
    slices_ptr,
    bias_ptr,
    out_ptr,
    raw_ptr,
    rows_ptr,
    counts_ptr,
    partial0_ptr,
    partial1_ptr,
    slope,
    slices,
    programs,
    units_out,
    images,
    OH,
    OW,
    tiles_h,
    tiles_w,
    tiles,
    column_tiles,
    EPILOGUE: tl.constexpr,
    ACT: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_N: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The sum of a tile's slices, COLUMNS channels a program, and the product's epilogue."""
    PHASES: tl.constexpr = SH * SW if TRANSPOSED else 1
    BLOCK_M: tl.constexpr = BLOCK_I * BLOCK_H * BLOCK_W
    PARTS: tl.constexpr = BLOCK_N // COLUMNS
    pid = tl.program_id(0) // PARTS
    column = tl.program_id(0) % PARTS * COLUMNS + tl.arange(0, COLUMNS)
    at = tl.arange(0, BLOCK_M)[:, None] * BLOCK_N + column[None, :]
    acc = tl.zeros([BLOCK_M, COLUMNS], tl.float32)
    for piece in range(slices):
        tile = tl.cast(piece, tl.int64) * programs + pid
        acc += tl.load(slices_ptr + tile * (BLOCK_M * BLOCK_N) + at)
    column_tile, phase, box, segment, i0, h0, w0 = locate(
        pid, images, tiles_h, tiles_w, tiles, column_tiles, PHASES, BLOCK_I, BLOCK_H, BLOCK_W
    )
    eh, QH, _, _, _, ew, QW, _, _, _ = axes_of(phase, OH, OW, TRANSPOSED, KH, KW, SH, SW, PH, PW)
    finish(
        acc, column_tile * BLOCK_N + column, bias_ptr, out_ptr, raw_ptr, rows_ptr, counts_ptr,
        partial0_ptr, partial1_ptr, slope, units_out * 16, images, OH, OW,
        (column_tile == 0) & (tl.program_id(0) % PARTS == 0), box.to(tl.int64) * PHASES + phase,
        segment, i0, h0, w0, eh, QH, ew, QW, EPILOGUE, ACT, TRANSPOSED, SH, SW, BLOCK_H, BLOCK_W,
    )  # fmt: skip
