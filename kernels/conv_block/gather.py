"""Device code of direct and transposed convolution: one implicit GEMM that gathers its rows.

Forward pass and data gradient of both kinds are this kernel; `tiles.py` says how rows, taps and
operands are formed, `epilogue.py` what is stored.

Tiles never cross segments, and each has partials of its own, merged in one order afterwards
(`merge.py`): so runs repeat bit for bit.
"""

import triton
import triton.language as tl

from fastgan.kernels.conv_block.epilogue import store_gradient, store_output
from fastgan.kernels.conv_block.tiles import (
    axis_phase,
    inside,
    load_gradient,
    load_input,
    ravel,
    round_operand,
    unravel,
)

# Arguments that vary with the shape: not specialised on, or every shape would compile anew.
SHAPE_ARGUMENTS = (
    "units_in", "units_out", "images", "ID", "IH", "IW", "OD", "OH", "OW", "PD", "PH", "PW",
    "share_in", "share_out", "tiles", "column_tiles",
)  # fmt: skip


@triton.jit(do_not_specialize=SHAPE_ARGUMENTS)
def conv_kernel(
    x_ptr,
    y_ptr,
    rows_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    raw_ptr,
    raw_rows_ptr,
    counts_ptr,
    partial0_ptr,
    partial1_ptr,
    slope_in,
    slope_out,
    units_in,
    units_out,
    images,
    ID,
    IH,
    IW,
    OD,
    OH,
    OW,
    PD,
    PH,
    PW,
    share_in,
    share_out,
    tiles,
    column_tiles,
    PROLOGUE: tl.constexpr,
    ACT_IN: tl.constexpr,
    EPILOGUE: tl.constexpr,
    ACT_OUT: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    DIMS: tl.constexpr,
    KD: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SD: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    VEC_IN: tl.constexpr,
    VEC_OUT: tl.constexpr,
    EVEN_K: tl.constexpr,
    WIDE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One tile: BLOCK_M output positions of a segment (``images`` of them) and phase by BLOCK_N
    channels. Programs that share rows stand side by side in the grid: column tiles, then phases.

    x (and y, for PROLOGUE "gradient") is read, out written; all channels-last. weight: packed
    (taps, channels_in, channels_out), zero up to whole blocks. In float32: bias (C_out); rows
    (S, 3, C_in) and raw_rows (S, 3, C_out), a row of S for ``share`` segments; counts (segments,
    tiles * phases) and the partials, with C_out behind.
    """
    PHASES: tl.constexpr = SD * SH * SW if TRANSPOSED else 1
    channels_in = units_in * VEC_IN
    channels_out = units_out * VEC_OUT
    pid = tl.program_id(0)
    column_tile = pid % column_tiles
    rest = pid // column_tiles
    phase = rest % PHASES
    rest = rest // PHASES
    segment = rest // tiles
    # Positions of this phase: QD x QH x QW an image; axis by axis the first input and weight taps.
    ed, eh, ew = 0, 0, 0
    QD, QH, QW = OD, OH, OW
    bd, bh, bw = -PD, -PH, -PW
    rd, rh, rw = 0, 0, 0
    taps_d, taps_h, taps_w = KD, KH, KW
    if TRANSPOSED:
        ew = phase % SW
        eh = (phase // SW) % SH
        ed = phase // (SW * SH)
        QD, bd, rd, taps_d = axis_phase(ed, OD, PD, KD, SD)
        QH, bh, rh, taps_h = axis_phase(eh, OH, PH, KH, SH)
        QW, bw, rw, taps_w = axis_phase(ew, OW, PW, KW, SW)
        # Where strides divide the kernel, every phase has as many taps: known to the compiler.
        if KD % SD == 0:
            taps_d = KD // SD
        if KH % SH == 0:
            taps_h = KH // SH
        if KW % SW == 0:
            taps_w = KW // SW

    # Rows count from the tile's first image, so that 32 bits do (unless WIDE).
    positions = tl.maximum(QD * QH * QW, 1)
    first = (rest % tiles).to(tl.int64) * BLOCK_M
    left = tl.minimum(images.to(tl.int64) * (QD * QH * QW) - first, BLOCK_M).to(tl.int32)
    image0 = first // positions
    lane = tl.arange(0, BLOCK_M)
    image, qd, qh, qw = unravel((first - image0 * positions).to(tl.int32) + lane, QD, QH, QW, DIMS)
    image0 += segment.to(tl.int64) * images
    row_mask = lane < left
    if WIDE:
        image = image.to(tl.int64)

    if TRANSPOSED:
        d0, h0, w0 = qd + bd, qh + bh, qw + bw
    else:
        d0, h0, w0 = qd * SD + bd, qh * SH + bh, qw * SW + bw
    row_in = ravel(image, d0, h0, w0, ID, IH, IW, DIMS) * channels_in
    w0 = tl.where(row_mask, w0, -(2**30))  # outside for every tap
    x_ptr += image0 * ID * IH * IW * channels_in
    if y_ptr is not None:
        y_ptr += image0 * ID * IH * IW * channels_in

    # One register a row through the loop, where its four indices would take four.
    if TRANSPOSED:
        row_out = ravel(image, qd * SD + ed, qh * SH + eh, qw * SW + ew, OD, OH, OW, DIMS)
    else:
        row_out = ravel(image, qd, qh, qw, OD, OH, OW, DIMS)
    row_out = row_out * channels_out

    k_blocks = (channels_in + BLOCK_K - 1) // BLOCK_K
    packed_k = k_blocks * BLOCK_K
    packed_n = column_tiles * BLOCK_N
    k = tl.arange(0, BLOCK_K)
    n = column_tile * BLOCK_N + tl.arange(0, BLOCK_N)
    in_tile = k[:, None] * packed_n + n[None, :]
    segment_in = segment // share_in
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for step in range(0, tl.where(left > 0, taps_d * taps_h * taps_w * k_blocks, 0)):
        tap = step // k_blocks
        k0 = (step - tap * k_blocks) * BLOCK_K
        jw = tap % taps_w
        jh = (tap // taps_w) % taps_h
        jd = tap // (taps_w * taps_h)
        if TRANSPOSED:
            weight_tap = ((rd + jd * SD) * KH + rh + jh * SH) * KW + rw + jw * SW
            jd, jh, jw = -jd, -jh, -jw
        else:
            weight_tap = tap
        valid = inside(d0 + jd, h0 + jh, w0 + jw, ID, IH, IW, DIMS)
        shift = ((jd * IH + jh) * IW + jw) * channels_in + k0
        if WIDE:
            shift = ((jd.to(tl.int64) * IH + jh) * IW + jw) * channels_in + k0
        channel = k0 + k
        channel_mask = channel < channels_in
        mask = valid[:, None]
        if not EVEN_K:
            mask = mask & channel_mask[None, :]
        offsets = (row_in + shift)[:, None] + k[None, :]
        if PROLOGUE == "input":
            a = load_input(
                x_ptr, offsets, mask, valid, rows_ptr, segment_in, channels_in, channel,
                channel_mask, slope_in, ACT_IN, PRECISION,
            )  # fmt: skip
        else:
            a = load_gradient(
                x_ptr, y_ptr, offsets, mask, valid, rows_ptr, segment_in, channels_in, channel,
                channel_mask, slope_in, ACT_IN,
            )  # fmt: skip
            if y_ptr is not None:
                a = round_operand(a, x_ptr.dtype.element_ty, PRECISION)
        start = (weight_tap.to(tl.int64) * packed_k + k0) * packed_n
        b = tl.load(weight_ptr + start + in_tile)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)

    image_out = image0 * OD * OH * OW * channels_out
    offsets = row_out[:, None] + n[None, :]
    count = tl.maximum(left, 0)
    tile = rest.to(tl.int64) * PHASES + phase
    if EPILOGUE == "output":
        store_output(
            acc, bias_ptr, out_ptr + image_out, offsets, row_mask, count, n, channels_out,
            column_tile == 0, counts_ptr, partial0_ptr, partial1_ptr, tile, slope_out, ACT_OUT,
        )  # fmt: skip
    else:
        store_gradient(
            acc, out_ptr + image_out, raw_ptr + image_out, offsets, row_mask, n, channels_out,
            raw_rows_ptr, segment // share_out, partial0_ptr, partial1_ptr, tile, slope_out,
            ACT_OUT,
        )  # fmt: skip
