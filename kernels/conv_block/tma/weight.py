"""Device code of the weight gradient whose operands come by TMA.

    out[slice, a, tap, b] = sum of dense[a at q] * gathered[b at q * stride - padding + tap]

over a slice's boxes of positions q. Of a direct convolution dense is dy and gathered z, of a
transposed one the other way round. The gathered operand is seen as `product.py` says. Where a box
overhangs the positions the dense one is 0. Where the gathered one may be a value there that no
position reads it is masked: 0 times infinity is not 0. (One that others read makes the gradient
infinite anyway.)
"""

import triton
import triton.language as tl

# Arguments that vary with the shape: not specialised on, or every shape would compile anew.
SHAPE_ARGUMENTS = (
    "dense_units", "units", "tiles", "slice_tiles", "row_blocks", "channel_blocks", "height",
    "width",
)  # fmt: skip


@triton.jit(do_not_specialize=SHAPE_ARGUMENTS)
def tma_weight_kernel(
    dense_desc,
    gathered_desc,
    out_ptr,
    dense_units,
    units,
    tiles,
    slice_tiles,
    row_blocks,
    channel_blocks,
    height,
    width,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    FLAT: tl.constexpr,
    MASK: tl.constexpr,
    TILES_H: tl.constexpr,
    TILES_W: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STAGES: tl.constexpr,
):
    """BLOCK_M dense channels by BLOCK_N gathered ones of one tap, over one slice: a run of
    ``slice_tiles`` of the ``tiles`` boxes, which cover images of ``height`` by ``width`` and with
    MASK overhang them. Channels are 16 times their units.
    """
    BLOCK_K: tl.constexpr = BLOCK_I * BLOCK_H * BLOCK_W
    LEAD_H: tl.constexpr = (PH + SH - 1) // SH
    LEAD_W: tl.constexpr = (PW + SW - 1) // SW
    pid = tl.program_id(0)
    m0 = pid % row_blocks * BLOCK_M
    rest = pid // row_blocks
    c0 = rest % channel_blocks * BLOCK_N
    rest = rest // channel_blocks
    tap = rest % (KH * KW)
    piece = rest // (KH * KW)
    dense_channels = dense_units * 16
    channels = units * 16
    jh = tap // KW + LEAD_H * SH - PH
    jw = tap % KW + LEAD_W * SW - PW
    bh = jh // SH - LEAD_H
    bw = jw // SW - LEAD_W
    rh = jh % SH
    column = jw % SW * channels + c0
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    first = piece * slice_tiles
    for t in tl.range(first, tl.minimum(first + slice_tiles, tiles), num_stages=STAGES):
        w0 = t % TILES_W * BLOCK_W
        row = t // TILES_W
        h0 = row % TILES_H * BLOCK_H
        i0 = row // TILES_H * BLOCK_I
        if FLAT:
            a = dense_desc.load([t * BLOCK_K, m0])
        else:
            a = dense_desc.load([i0, h0, 0, w0, m0]).reshape(BLOCK_K, BLOCK_M)
        b = gathered_desc.load([i0, h0 + bh, rh, w0 + bw, column]).reshape(BLOCK_K, BLOCK_N)
        if MASK:
            lane = tl.arange(0, BLOCK_K)
            inside = (h0 + lane // BLOCK_W % BLOCK_H < height) & (w0 + lane % BLOCK_W < width)
            b = tl.where(inside[:, None], b, tl.zeros_like(b))
        acc = tl.dot(a.T, b, acc)

    m = m0 + tl.arange(0, BLOCK_M)
    c = c0 + tl.arange(0, BLOCK_N)
    out = (piece.to(tl.int64) * dense_channels + m) * (KH * KW * channels)
    mask = (m < dense_channels)[:, None] & (c < channels)[None, :]
    offsets = out[:, None] + (tap * channels + c)[None, :]
    tl.store(out_ptr + offsets, acc.to(out_ptr.dtype.element_ty), mask)
