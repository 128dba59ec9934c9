"""Device code of direct and transposed convolution whose operands come by TMA: no gather.

A box of output positions, BLOCK_I images of BLOCK_H x BLOCK_W, meets each tap in a box of the
input. The descriptor of a direct convolution's input sees channels-last memory (images, H, W, C) as
(images, H / SH, SH, W / SW, SW * C): along both axes, an input position is a stride's multiple and
a rest, and a tap's rest is the same for all outputs. A transposed convolution's reads (images, H,
1, W, C), phase by phase (`tiles.py`). What lies outside a tensor arrives as 0: that is the padding.

The weight is torch's own in channels-last memory, a matrix (channels out, taps * channels in) for
the direct convolution, (channels in, taps * channels out) for the transposed one; and it is the
same for either's data gradient, which is the other. For float32, of which Hopper's matrix unit
takes operands with the summed axis adjacent alone, it is a copy, (channels out, taps * channels in)
for both (`packing.py`).

Written W * X^T: then both operands go from shared memory to the matrix unit. It takes float32 as
TF32.
"""

import triton
import triton.language as tl

from fastgan.kernels.conv_block.epilogue import store_gradient, store_output
from fastgan.kernels.conv_block.tiles import axis_phase

# Arguments that vary with the shape: not specialised on, or every shape would compile anew.
SHAPE_ARGUMENTS = (
    "units_out", "images", "OH", "OW", "tiles_h", "tiles_w", "tiles", "column_tiles",
)  # fmt: skip


@triton.jit
def locate(
    pid,
    images,
    tiles_h,
    tiles_w,
    tiles,
    column_tiles,
    PHASES: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """(column tile, phase, box, segment, first image in it, row and column) of a program. Programs
    that share a box stand side by side in the grid: column tiles, then phases.
    """
    rest = pid // column_tiles
    box = rest // PHASES
    w0 = box % tiles % tiles_w * BLOCK_W
    h0 = box % tiles // tiles_w % tiles_h * BLOCK_H
    i0 = box % tiles // (tiles_w * tiles_h) * BLOCK_I
    return pid % column_tiles, rest % PHASES, box, box // tiles, i0, h0, w0


@triton.jit
def axes_of(
    phase,
    OH,
    OW,
    TRANSPOSED: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
):
    """(e, positions, offset, first tap, taps) of a phase along H, then W; see `axis_phase`."""
    eh, ew = 0, 0
    QH, QW = OH, OW
    bh, bw, rh, rw = 0, 0, 0, 0
    taps_h, taps_w = KH, KW
    if TRANSPOSED:
        eh = phase // SW
        ew = phase % SW
        QH, bh, rh, taps_h = axis_phase(eh, OH, PH, KH, SH)
        QW, bw, rw, taps_w = axis_phase(ew, OW, PW, KW, SW)
        # Where strides divide the kernel, every phase has as many taps: known to the compiler.
        if KH % SH == 0:
            taps_h = KH // SH
        if KW % SW == 0:
            taps_w = KW // SW
    return eh, QH, bh, rh, taps_h, ew, QW, bw, rw, taps_w


@triton.jit
def multiply(
    x_desc,
    weight_desc,
    first,
    last,
    image0,
    h0,
    w0,
    n0,
    channels_out,
    bh,
    bw,
    rh,
    rw,
    taps_w,
    TRANSPOSED: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
):
    """The sums (BLOCK_N, BLOCK_M) over steps [first, last): taps, and blocks of channels within."""
    K_BLOCKS: tl.constexpr = CHANNELS // BLOCK_K
    # Whole strides that the padding spans, and what is left of the last of them.
    LEAD_H: tl.constexpr = (PH + SH - 1) // SH
    LEAD_W: tl.constexpr = (PW + SW - 1) // SW
    acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for step in tl.range(first, last, num_stages=STAGES):
        tap = step // K_BLOCKS
        k0 = step % K_BLOCKS * BLOCK_K
        jh = tap // taps_w
        jw = tap % taps_w
        if TRANSPOSED:
            x = x_desc.load([image0, h0 + bh - jh, 0, w0 + bw - jw, k0])
            weight_tap = (rh + jh * SH) * KW + rw + jw * SW
            if weight_desc.dtype == tl.float32:
                weight = weight_desc.load([n0, weight_tap * CHANNELS + k0])
            else:
                weight = weight_desc.load([k0, weight_tap * channels_out + n0]).T
        else:
            jh += LEAD_H * SH - PH
            jw += LEAD_W * SW - PW
            h = h0 + jh // SH - LEAD_H
            w = w0 + jw // SW - LEAD_W
            x = x_desc.load([image0, h, jh % SH, w, jw % SW * CHANNELS + k0])
            weight = weight_desc.load([n0, step * BLOCK_K])
        acc = tl.dot(weight, x.reshape(BLOCK_M, BLOCK_K).T, acc, input_precision="tf32")
    return acc


@triton.jit
def finish(
    acc,
    n,
    bias_ptr,
    out_ptr,
    raw_ptr,
    rows_ptr,
    counts_ptr,
    partial0_ptr,
    partial1_ptr,
    slope,
    channels_out,
    images,
    OH,
    OW,
    first_columns,
    tile,
    segment,
    i0,
    h0,
    w0,
    eh,
    QH,
    ew,
    QW,
    EPILOGUE: tl.constexpr,
    ACT: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """The epilogue of a box's sums (positions, channels ``n``)."""
    lane = tl.arange(0, acc.shape[0])
    qw = w0 + lane % BLOCK_W
    qh = h0 + lane // BLOCK_W % BLOCK_H
    image = lane // (BLOCK_W * BLOCK_H)
    row_mask = (i0 + image < images) & (qh < QH) & (qw < QW)
    if TRANSPOSED:
        qh = qh * SH + eh
        qw = qw * SW + ew
    row = ((segment * images + i0 + image).to(tl.int64) * OH + qh) * OW + qw
    offsets = (row * channels_out)[:, None] + n[None, :]
    if EPILOGUE == "output":
        count = tl.sum(row_mask.to(tl.int32), 0)
        store_output(
            acc, bias_ptr, out_ptr, offsets, row_mask, count, n, channels_out, first_columns,
            counts_ptr, partial0_ptr, partial1_ptr, tile, slope, ACT,
        )  # fmt: skip
    else:
        store_gradient(
            acc, out_ptr, raw_ptr, offsets, row_mask, n, channels_out, rows_ptr,
            segment, partial0_ptr, partial1_ptr, tile, slope, ACT,
        )  # fmt: skip


@triton.jit(do_not_specialize=SHAPE_ARGUMENTS)
def tma_conv_kernel(
    x_desc,
    weight_desc,
    bias_ptr,
    out_ptr,
    raw_ptr,
    rows_ptr,
    counts_ptr,
    partial0_ptr,
    partial1_ptr,
    slope,
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
    CHANNELS: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
):
    """One box of a segment (``images`` of them) and phase by BLOCK_N channels.

    CHANNELS are those of x, of which BLOCK_K is a divisor; ``units_out`` times 16 those of out,
    raw, rows (segments, 3, C), bias and partials (see `epilogue.py`).
    """
    PHASES: tl.constexpr = SH * SW if TRANSPOSED else 1
    BLOCK_M: tl.constexpr = BLOCK_I * BLOCK_H * BLOCK_W
    column_tile, phase, box, segment, i0, h0, w0 = locate(
        tl.program_id(0), images, tiles_h, tiles_w, tiles, column_tiles, PHASES, BLOCK_I, BLOCK_H,
        BLOCK_W,
    )  # fmt: skip
    eh, QH, bh, rh, taps_h, ew, QW, bw, rw, taps_w = axes_of(
        phase, OH, OW, TRANSPOSED, KH, KW, SH, SW, PH, PW
    )
    channels_out = units_out * 16
    n0 = column_tile * BLOCK_N
    acc = multiply(
        x_desc, weight_desc, 0, taps_h * taps_w * (CHANNELS // BLOCK_K), segment * images + i0, h0,
        w0, n0, channels_out, bh, bw, rh, rw, taps_w, TRANSPOSED, KW, SH, SW, PH, PW, CHANNELS,
        BLOCK_M, BLOCK_N, BLOCK_K, STAGES,
    )  # fmt: skip
    finish(
        acc.T, n0 + tl.arange(0, BLOCK_N), bias_ptr, out_ptr, raw_ptr, rows_ptr, counts_ptr,
        partial0_ptr, partial1_ptr, slope, channels_out, images, OH, OW, column_tile == 0,
        box.to(tl.int64) * PHASES + phase, segment, i0, h0, w0, eh, QH, ew, QW, EPILOGUE, ACT,
        TRANSPOSED, SH, SW, BLOCK_H, BLOCK_W,
    )  # fmt: skip
