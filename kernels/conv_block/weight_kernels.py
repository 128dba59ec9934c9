"""Device code of the weight gradient of convolutions: a GEMM over positions, split into slices.

One operand is dense, read position by position; the other is gathered, read at ``position * stride
- padding + tap``. With dy the gradient before bias and activation, and z the convolution's input:

    convolution              dense dy (C_out), gathered z (C_in)
    transposed convolution   dense z (C_in), gathered dy (C_out)

In both, the gradient of weight[dense channel, gathered channel, tap] is the sum of dense * gathered
over the dense positions. Rows of the GEMM are dense channels; columns are (tap, gathered channel),
flat, so that three channels and their taps fill a tile as well as 128 channels do. z and dy are
formed as they are loaded: see ``tiles.py``.
"""

import triton
import triton.language as tl

from fastgan.kernels.conv_block.tiles import apply_act, inside, load_rows, normalise, round_operand
from fastgan.kernels.core.device import activation_grad_from_output

# Not specialised on, or every shape would compile anew.
WEIGHT_ARGUMENTS = (
    "dense_units", "units", "taps", "H", "W", "GD", "GH", "GW", "KH", "KW",
    "stride_d", "stride_h", "stride_w", "padding_d", "padding_h", "padding_w",
    "positions", "gathered_positions", "segment_images", "segment_tiles", "tiles",
    "slice_tiles", "divide_image", "shift_image", "divide_h", "shift_h", "divide_w", "shift_w",
    "divide_segment", "shift_segment", "pre_step", "dy_step", "row_blocks", "column_blocks",
)  # fmt: skip
BIAS_ARGUMENTS = (
    "units", "length", "chunks", "tiles_per_chunk", "dy_step", "channel_blocks",
)  # fmt: skip
REDUCE_ARGUMENTS = ("slices", "rows", "taps", "units", "tap_blocks", "channel_blocks")


@triton.jit
def _load_input(
    x_ptr, offsets, mask, rows_ptr, row, channels, channel, channel_mask, slope, ACT: tl.constexpr
):
    """z, in float32 where it is not x itself."""
    z = tl.load(x_ptr + offsets, mask, other=0.0)
    if rows_ptr is not None:
        row = tl.cast(row, tl.int64)
        center, scale, shift = load_rows(rows_ptr, row, channels, channel, channel_mask)
        z = normalise(z.to(tl.float32), center, scale, shift)
    if ACT >= 0:
        z = apply_act(z.to(tl.float32), slope, ACT)
    return z


@triton.jit
def _load_gradient(
    g_ptr,
    y_ptr,
    start,
    offsets,
    mask,
    rows_ptr,
    row,
    channels,
    channel,
    channel_mask,
    slope,
    ACT: tl.constexpr,
):
    """dy, in float32 where it is not g itself (then y is not read)."""
    dy = tl.load(g_ptr + start + offsets, mask, other=0.0)
    if y_ptr is not None:
        y = tl.load(y_ptr + start + offsets, mask, other=0.0).to(tl.float32)
        dy = dy.to(tl.float32)
        if rows_ptr is not None:
            row = tl.cast(row, tl.int64)
            center, k1, k2 = load_rows(rows_ptr, row, channels, channel, channel_mask)
            dy += normalise(y, center, k1, k2)
        if ACT >= 0:
            dy *= activation_grad_from_output(y, slope, ACT)
    return dy


@triton.jit
def _operand(v, dtype: tl.constexpr, FORMED: tl.constexpr, PRECISION: tl.constexpr):
    """A tile as tl.dot takes it; one that is as it was loaded goes there straight from memory."""
    if FORMED:
        v = round_operand(v, dtype, PRECISION)
    return v


@triton.jit
def _quotient(n, multiplier, shift):
    """n // d for 0 <= n < 2^31 with the numbers of `divider(d)`: three instructions, not thirty."""
    doubled = tl.cast(n, tl.uint32) * 2
    return (tl.umulhi(doubled, multiplier.to(tl.uint32)) >> shift.to(tl.uint32)).to(tl.int32)


@triton.jit(do_not_specialize=WEIGHT_ARGUMENTS)
def weight_kernel(
    x_ptr,
    pre_rows_ptr,
    g_ptr,
    y_ptr,
    dy_rows_ptr,
    out_ptr,
    bias_ptr,
    pre_slope,
    slope,
    dense_units,
    units,
    taps,
    H,
    W,
    GD,
    GH,
    GW,
    KH,
    KW,
    stride_d,
    stride_h,
    stride_w,
    padding_d,
    padding_h,
    padding_w,
    positions,
    gathered_positions,
    segment_images,
    segment_tiles,
    tiles,
    slice_tiles,
    divide_image,
    shift_image,
    divide_h,
    shift_h,
    divide_w,
    shift_w,
    divide_segment,
    shift_segment,
    pre_step,
    dy_step,
    row_blocks,
    column_blocks,
    TRANSPOSED: tl.constexpr,
    DIMS: tl.constexpr,
    ONE_TAP: tl.constexpr,
    WIDE: tl.constexpr,
    PRE_ACT: tl.constexpr,
    ACT: tl.constexpr,
    PRECISION: tl.constexpr,
    DENSE_VEC: tl.constexpr,
    VEC: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
):
    """One tile of one slice's sum: out (slices, dense channels, taps, channels), any float dtype.

    H, W and GD, GH, GW: extents of the dense and the gathered operand. A slice is a run of
    ``slice_tiles`` tiles of BLOCK_K positions. Tiles do not cross segments, so that the rows of
    a segment are loaded once, not once a position. ONE_TAP: columns of a block share their tap.
    bias (slices, dense channels), unless None: sums of the dense operand, dy. What is past the last
    position or in the padding need not be 0 in both operands: it is in the gathered one.
    """
    PRE: tl.constexpr = pre_rows_ptr is not None or PRE_ACT >= 0
    DY: tl.constexpr = dy_rows_ptr is not None or ACT >= 0
    DENSE_FORMED: tl.constexpr = PRE if TRANSPOSED else DY
    GATHERED_FORMED: tl.constexpr = DY if TRANSPOSED else PRE
    dense_channels = dense_units * DENSE_VEC
    channels = units * VEC
    pid = tl.program_id(0)
    row_block = pid % row_blocks
    column_block = (pid // row_blocks) % column_blocks
    part = pid // row_blocks // column_blocks

    m = row_block * BLOCK_M + tl.arange(0, BLOCK_M)
    n = column_block * BLOCK_N + tl.arange(0, BLOCK_N)
    columns = taps * channels
    m_inside = m < dense_channels
    n_inside = n < columns
    if ONE_TAP:
        tap = column_block * BLOCK_N // channels
        channel = n - tap * channels
    else:
        tap = (n // channels)[None, :]
        channel = n % channels
    tap_w = tap % KW
    tap_h = tap // KW % KH
    tap_d = tap // KW // KH
    # A tap reads at position * stride + offset.
    offset_w = tap_w - padding_w
    offset_h = tap_h - padding_h
    offset_d = tap_d - padding_d
    width = channels
    dense_width = dense_channels
    if WIDE:
        width = width.to(tl.int64)
        dense_width = dense_width.to(tl.int64)
    step = tl.arange(0, BLOCK_K)
    from_tap = ((offset_d * GH + offset_h) * GW + offset_w) * width + channel[None, :]
    dense_offsets = step[:, None] * dense_width + m[None, :]

    accumulator = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    bias = tl.zeros([BLOCK_M], tl.float32)
    first_tile = part * slice_tiles
    last_tile = tl.minimum(first_tile + slice_tiles, tiles)
    for tile in tl.range(first_tile, last_tile, num_stages=STAGES):
        # Offsets count from the tile's first position, and from the image it is in: 32 bits do.
        segment = _quotient(tile, divide_segment, shift_segment)
        start = (tile - segment * segment_tiles) * BLOCK_K
        image = _quotient(start, divide_image, shift_image)
        first_image = tl.cast(segment, tl.int64) * segment_images
        dense_start = (first_image * positions + start) * dense_channels
        gathered_start = (first_image + image) * gathered_positions * channels
        k_inside = start + step < segment_images * positions

        k = start - image * positions + step
        image = _quotient(k, divide_image, shift_image)
        w = k - image * positions
        h = w
        d = w
        row = image * gathered_positions
        if DIMS >= 2:
            h = _quotient(w, divide_w, shift_w)
            w -= h * W
        if DIMS == 3:
            d = _quotient(h, divide_h, shift_h)
            h -= d * H
            row += d * stride_d * (GH * GW)
        if DIMS >= 2:
            row += h * stride_h * GW
        row += w * stride_w
        valid = k_inside[:, None] & inside(
            (d * stride_d)[:, None] + offset_d,
            (h * stride_h)[:, None] + offset_h,
            (w * stride_w)[:, None] + offset_w,
            GD, GH, GW, DIMS,
        )  # fmt: skip
        gathered_offsets = row[:, None] * width + from_tap
        gathered_mask = valid & n_inside[None, :]
        dense_mask = k_inside[:, None] & m_inside[None, :]

        if TRANSPOSED:
            dense = _load_input(
                x_ptr + dense_start, dense_offsets, dense_mask, pre_rows_ptr, segment * pre_step,
                dense_channels, m, m_inside, pre_slope, PRE_ACT,
            )  # fmt: skip
            gathered = _load_gradient(
                g_ptr, y_ptr, gathered_start, gathered_offsets, gathered_mask, dy_rows_ptr,
                segment * dy_step, channels, channel, n_inside, slope, ACT,
            )  # fmt: skip
        else:
            dense = _load_gradient(
                g_ptr, y_ptr, dense_start, dense_offsets, dense_mask, dy_rows_ptr,
                segment * dy_step, dense_channels, m, m_inside, slope, ACT,
            )  # fmt: skip
            if DENSE_FORMED:
                dense = tl.where(k_inside[:, None], dense, 0.0)
            gathered = _load_input(
                x_ptr + gathered_start, gathered_offsets, gathered_mask, pre_rows_ptr,
                segment * pre_step, channels, channel, n_inside, pre_slope, PRE_ACT,
            )  # fmt: skip
        if GATHERED_FORMED:
            gathered = tl.where(valid, gathered, 0.0)
        if bias_ptr is not None:  # noqa: SIM102 (the compiler knows this one)
            if column_block == 0:
                bias += tl.sum(dense.to(tl.float32), 0)
        accumulator = tl.dot(
            tl.trans(_operand(gathered, x_ptr.dtype.element_ty, GATHERED_FORMED, PRECISION)),
            _operand(dense, x_ptr.dtype.element_ty, DENSE_FORMED, PRECISION),
            accumulator,
            input_precision=PRECISION,
        )

    start = tl.cast(part, tl.int64) * dense_channels * columns
    offsets = start + m[:, None].to(tl.int64) * columns + n[None, :]
    mask = m_inside[:, None] & n_inside[None, :]
    tl.store(out_ptr + offsets, tl.trans(accumulator).to(out_ptr.dtype.element_ty), mask)
    if bias_ptr is not None:
        start = tl.cast(part, tl.int64) * dense_channels
        tl.store(bias_ptr + start + m, bias, m_inside & (column_block == 0))


@triton.jit(do_not_specialize=BIAS_ARGUMENTS)
def bias_kernel(
    g_ptr,
    y_ptr,
    dy_rows_ptr,
    out_ptr,
    slope,
    units,
    length,
    chunks,
    tiles_per_chunk,
    dy_step,
    channel_blocks,
    ACT: tl.constexpr,
    VEC: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Sums of dy, out (segments * chunks, channels): a program has one chunk of the ``length``
    positions of one segment, and one block of channels.
    """
    channels = units * VEC
    pid = tl.program_id(0)
    part = pid // channel_blocks
    segment = part // chunks
    channel = pid % channel_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    channel_inside = channel < channels
    start = tl.cast(segment, tl.int64) * length * channels
    total = tl.zeros([BLOCK_K, BLOCK_C], tl.float32)
    first = part % chunks * tiles_per_chunk
    for tile in range(first, first + tiles_per_chunk):
        k = tl.cast(tile, tl.int64) * BLOCK_K + tl.arange(0, BLOCK_K)
        inside = k < length
        dy = _load_gradient(
            g_ptr, y_ptr, start, k[:, None] * channels + channel[None, :],
            inside[:, None] & channel_inside[None, :], dy_rows_ptr, segment * dy_step, channels,
            channel, channel_inside, slope, ACT,
        )  # fmt: skip
        total += tl.where(inside[:, None], dy.to(tl.float32), 0.0)
    out = out_ptr + tl.cast(part, tl.int64) * channels + channel
    tl.store(out, tl.sum(total, 0), channel_inside)


@triton.jit(do_not_specialize=REDUCE_ARGUMENTS)
def reduce_kernel(
    partial_ptr,
    out_ptr,
    slices,
    rows,
    taps,
    units,
    tap_blocks,
    channel_blocks,
    VEC: tl.constexpr,
    TAPS_INNER: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The sum of partial (slices, rows, taps, channels) over slices, always in the same order, in
    the dtype of out (rows, taps, channels), or with TAPS_INNER (rows, channels, taps).
    """
    channels = units * VEC
    pid = tl.program_id(0)
    channel = pid % channel_blocks * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    tap = pid // channel_blocks % tap_blocks * BLOCK_T + tl.arange(0, BLOCK_T)[:, None]
    row = tl.cast(pid // channel_blocks // tap_blocks, tl.int64)
    inside = (tap < taps) & (channel < channels)
    offsets = (row * taps + tap) * channels + channel
    step = tl.cast(rows, tl.int64) * taps * channels
    total = tl.zeros([BLOCK_S, BLOCK_T, BLOCK_C], tl.float32)
    for s0 in range(0, slices, BLOCK_S):
        s = (s0 + tl.arange(0, BLOCK_S))[:, None, None]
        mask = (s < slices) & inside[None, :, :]
        total += tl.load(partial_ptr + s.to(tl.int64) * step + offsets[None, :, :], mask, other=0.0)
    if TAPS_INNER:
        offsets = (row * channels + channel) * taps + tap
    tl.store(out_ptr + offsets, tl.sum(total, 0).to(out_ptr.dtype.element_ty), inside)
