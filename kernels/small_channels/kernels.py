"""Device code of convolutions from and to an image of few channels, and of their weight gradient.

The *map* is the side of many channels: its position q meets the image at q * stride - padding +
tap. All memory is channels-last; the weight is (channels of the map, channels of the image, kernel)
with any strides, and rounded to the operands' dtype as it is loaded.

Each is one matrix product over boxes of positions, with the few channels and what else there is of
an image side by side, so that the map goes between memory and chip once:

    from image   windows (positions, taps * few) times the weight
    to image     the map times the weight, for a box of positions and its neighbours in turn;
                 columns are the pixels of a position (stride^2 phases) and their few channels
    to weight    windows transposed times the map, over a slice of the boxes
"""

import triton
import triton.language as tl

from fastgan.kernels.conv_block.tiles import apply_act, round_operand

# Arguments that vary with the shape: not specialised on, or every shape would compile anew.
BOX_ARGUMENTS = ("images", "tiles_h", "tiles_w", "units", "height", "width", "rows", "columns")
WEIGHT_ARGUMENTS = ("stride_c", "stride_f", "stride_h", "stride_w")


@triton.jit
def box_of(
    box,
    tiles_h,
    tiles_w,
    BLOCK_I: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """(first image, each position's image after it, row, column) of a box."""
    lane = tl.arange(0, BLOCK_I * BLOCK_H * BLOCK_W)
    w = box % tiles_w * BLOCK_W + lane % BLOCK_W
    h = box // tiles_w % tiles_h * BLOCK_H + lane // BLOCK_W % BLOCK_H
    return box // (tiles_w * tiles_h) * BLOCK_I, lane // (BLOCK_W * BLOCK_H), h, w


@triton.jit
def inside(h, w, height, width):
    """Whether a place lies within height x width."""
    h = h.to(tl.uint32, bitcast=True)
    w = w.to(tl.uint32, bitcast=True)
    return (h < height.to(tl.uint32, bitcast=True)) & (w < width.to(tl.uint32, bitcast=True))


@triton.jit
def load_windows(
    image_ptr,
    i0,
    i,
    qh,
    qw,
    there,
    k,
    height,
    width,
    FEW: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Values (position, k) of an image of ``height`` by ``width``, k running over the taps' rows,
    columns and the image's channels; 0 outside of it, and where a position is not ``there``.
    """
    h0 = qh * SH - PH
    w0 = qw * SW - PW
    # One comparison along an axis tells all: no tap of a row that is none lies in the image.
    h0 = tl.where(there, h0, -KH)
    kh = tl.where(k < KH * KW * FEW, k // (KW * FEW), -(2**30))
    kw = k // FEW % KW
    mask = inside(h0[:, None] + kh[None, :], w0[:, None] + kw[None, :], height, width)
    offset = ((i * height + h0) * width + w0) * FEW
    step = k // (KW * FEW) * width * FEW + k % (KW * FEW)
    start = image_ptr + tl.cast(i0, tl.int64) * (height * width * FEW)
    window = tl.load(start + (offset[:, None] + step[None, :]), mask, other=0.0)
    return round_operand(window, window.dtype, PRECISION)


@triton.jit(do_not_specialize=(*BOX_ARGUMENTS, *WEIGHT_ARGUMENTS))
def from_image_kernel(
    image_ptr,
    weight_ptr,
    bias_ptr,
    map_ptr,
    slope,
    images,
    tiles_h,
    tiles_w,
    units,
    height,
    width,
    rows,
    columns,
    stride_c,
    stride_f,
    stride_h,
    stride_w,
    FEW: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    VEC: tl.constexpr,
    ACT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """act(sums + bias) of a box of the map, ``rows`` by ``columns`` an image, by BLOCK_N of its
    channels, VEC times ``units``.
    """
    channels = units * VEC
    column_tiles = (channels + BLOCK_N - 1) // BLOCK_N
    pid = tl.program_id(0)
    i0, i, qh, qw = box_of(pid // column_tiles, tiles_h, tiles_w, BLOCK_I, BLOCK_H, BLOCK_W)
    there = (i0 + i < images) & (qh < rows) & (qw < columns)
    n = pid % column_tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros([BLOCK_I * BLOCK_H * BLOCK_W, BLOCK_N], tl.float32)
    for k0 in tl.static_range(0, KH * KW * FEW, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        window = load_windows(
            image_ptr, i0, i, qh, qw, there, k, height, width, FEW, KH, KW, SH, SW, PH, PW,
            PRECISION,
        )  # fmt: skip
        at = k // (KW * FEW) * stride_h + k // FEW % KW * stride_w + k % FEW * stride_f
        mask = (k < KH * KW * FEW)[:, None] & (n < channels)[None, :]
        weight = tl.load(weight_ptr + (at[:, None] + (n * stride_c)[None, :]), mask, other=0.0)
        weight = round_operand(weight, window.dtype, PRECISION)
        acc = tl.dot(window, weight, acc, input_precision=PRECISION)
    if bias_ptr is not None:
        acc += tl.load(bias_ptr + n, n < channels, other=0.0)[None, :]
    out = apply_act(acc, slope, ACT).to(map_ptr.dtype.element_ty)
    start = map_ptr + tl.cast(i0, tl.int64) * (rows * columns * channels)
    offset = ((i * rows + qh) * columns + qw) * channels
    mask = there[:, None] & (n < channels)[None, :]
    tl.store(start + (offset[:, None] + n[None, :]), out, mask)


@triton.jit(do_not_specialize=(*BOX_ARGUMENTS, *WEIGHT_ARGUMENTS))
def to_image_kernel(
    map_ptr,
    weight_ptr,
    bias_ptr,
    image_ptr,
    slope,
    images,
    tiles_h,
    tiles_w,
    units,
    height,
    width,
    rows,
    columns,
    stride_c,
    stride_f,
    stride_h,
    stride_w,
    FEW: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    VEC: tl.constexpr,
    ACT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """act(sums + bias) of the pixels m * stride + e, every phase e, of a box of m.

    A pixel reads map position m + (e + padding) // stride - j by tap (e + padding) % stride + j *
    stride: so position m + d by tap e + padding - d * stride, where there is such a one. A value
    that is not finite makes NaN of all pixels of its neighbourhood, its 0 taps among them.
    """
    FIRST_H: tl.constexpr = PH // SH - (KH + SH - 1) // SH + 1
    FIRST_W: tl.constexpr = PW // SW - (KW + SW - 1) // SW + 1
    NEAR_H: tl.constexpr = (SH - 1 + PH) // SH - FIRST_H + 1
    NEAR_W: tl.constexpr = (SW - 1 + PW) // SW - FIRST_W + 1
    channels = units * VEC
    i0, i, m_h, m_w = box_of(tl.program_id(0), tiles_h, tiles_w, BLOCK_I, BLOCK_H, BLOCK_W)
    n = tl.arange(0, BLOCK_N)
    e_h = n // (SW * FEW)
    e_w = n // FEW % SW
    f = n % FEW
    start = map_ptr + tl.cast(i0, tl.int64) * (rows * columns * channels)
    place = ((i * rows + m_h) * columns + m_w) * channels
    acc = tl.zeros([BLOCK_I * BLOCK_H * BLOCK_W, BLOCK_N], tl.float32)
    for near in range(NEAR_H * NEAR_W):
        d_h = near // NEAR_W + FIRST_H
        d_w = near % NEAR_W + FIRST_W
        there = (i0 + i < images) & inside(m_h + d_h, m_w + d_w, rows, columns)
        tap_h = e_h + (PH - d_h * SH)
        tap_w = e_w + (PW - d_w * SW)
        real = (tap_h >= 0) & (tap_h < KH) & (tap_w >= 0) & (tap_w < KW) & (e_h < SH)
        at = f * stride_f + tap_h * stride_h + tap_w * stride_w
        moved = place + (d_h * columns + d_w) * channels
        for k0 in range(0, channels, BLOCK_K):
            c = k0 + tl.arange(0, BLOCK_K)
            mask = there[:, None] & (c < channels)[None, :]
            x = tl.load(start + (moved[:, None] + c[None, :]), mask, other=0.0)
            mask = (c < channels)[:, None] & real[None, :]
            weight = tl.load(weight_ptr + ((c * stride_c)[:, None] + at[None, :]), mask, other=0.0)
            x = round_operand(x, x.dtype, PRECISION)
            weight = round_operand(weight, x.dtype, PRECISION)
            acc = tl.dot(x, weight, acc, input_precision=PRECISION)
    if bias_ptr is not None:
        acc += tl.load(bias_ptr + f)[None, :]
    out = apply_act(acc, slope, ACT).to(image_ptr.dtype.element_ty)
    h = (m_h * SH)[:, None] + e_h[None, :]
    w = (m_w * SW)[:, None] + e_w[None, :]
    start = image_ptr + tl.cast(i0, tl.int64) * (height * width * FEW)
    offset = (((i * height)[:, None] + h) * width + w) * FEW + f[None, :]
    own = (i0 + i < images)[:, None] & (e_h < SH)[None, :]
    tl.store(start + offset, out, own & (h < height) & (w < width))


@triton.jit(do_not_specialize=("boxes", "slice_boxes", *BOX_ARGUMENTS))
def image_weight_kernel(
    image_ptr,
    map_ptr,
    out_ptr,
    boxes,
    slice_boxes,
    images,
    tiles_h,
    tiles_w,
    units,
    height,
    width,
    rows,
    columns,
    FEW: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    VEC: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Sums (slices, channels of the map, taps * few), BLOCK_N channels by BLOCK_K of the others, of
    one slice: a run of ``slice_boxes`` of all ``boxes``.
    """
    COLUMNS: tl.constexpr = KH * KW * FEW
    K_TILES: tl.constexpr = (COLUMNS + BLOCK_K - 1) // BLOCK_K
    channels = units * VEC
    column_tiles = (channels + BLOCK_N - 1) // BLOCK_N
    pid = tl.program_id(0)
    k = pid % K_TILES * BLOCK_K + tl.arange(0, BLOCK_K)
    n = pid // K_TILES % column_tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    piece = pid // (K_TILES * column_tiles)
    acc = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    for box in range(piece * slice_boxes, tl.minimum((piece + 1) * slice_boxes, boxes)):
        i0, i, qh, qw = box_of(box, tiles_h, tiles_w, BLOCK_I, BLOCK_H, BLOCK_W)
        there = (i0 + i < images) & (qh < rows) & (qw < columns)
        start = map_ptr + tl.cast(i0, tl.int64) * (rows * columns * channels)
        offset = ((i * rows + qh) * columns + qw) * channels
        mask = there[:, None] & (n < channels)[None, :]
        x = tl.load(start + (offset[:, None] + n[None, :]), mask, other=0.0)
        window = load_windows(
            image_ptr, i0, i, qh, qw, there, k, height, width, FEW, KH, KW, SH, SW, PH, PW,
            PRECISION,
        )  # fmt: skip
        x = round_operand(x, x.dtype, PRECISION)
        acc = tl.dot(x.T, window, acc, input_precision=PRECISION)
    row = piece.to(tl.int64) * channels + n
    mask = (n < channels)[:, None] & (k < COLUMNS)[None, :]
    tl.store(out_ptr + row[:, None] * COLUMNS + k[None, :], acc, mask)
