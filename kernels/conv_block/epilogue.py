"""What the convolutions do with a tile of sums before they store it.

    output      y = act(acc + bias), and unless the partials are None, for every tile and channel
                the count, mean and M2 of y as stored
    gradient    a * scale, a = acc * act'(u), u the normalised raw input of the forward pass; and
                unless the partials are None the tile's sums of a and of a * (raw - center)

A tile is output positions by channels ``n``. ``offsets`` are those of its values in ``out``;
``row_mask`` tells positions that are the tile's own, the first among them wherever there are any.
Partials are (tiles, channels), ``tile`` the row of this one.
"""

import triton
import triton.language as tl

from fastgan.kernels.conv_block.tiles import apply_act, load_rows, normalise
from fastgan.kernels.core.device import activation_grad


@triton.jit
def store_output(
    acc,
    bias_ptr,
    out_ptr,
    offsets,
    row_mask,
    count,
    n,
    channels,
    first_columns,
    counts_ptr,
    means_ptr,
    m2s_ptr,
    tile,
    slope,
    ACT: tl.constexpr,
):
    """``count`` of the rows are the tile's own; ``first_columns``: whether to store it."""
    column_mask = n < channels
    if bias_ptr is not None:
        acc += tl.load(bias_ptr + n, column_mask, other=0.0)[None, :]
    out = apply_act(acc, slope, ACT).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + offsets, out, row_mask[:, None] & column_mask[None, :])
    if means_ptr is not None:
        # Of what is stored, less the tile's first row, about the finished mean: nothing
        # cancels, and constants have an M2 of exactly 0.
        lane = tl.arange(0, acc.shape[0])
        stored = out.to(tl.float32)
        pivot = tl.sum(tl.where((lane == 0)[:, None], stored, 0.0), 0)
        centred = tl.where(row_mask[:, None], stored - pivot[None, :], 0.0)
        mean = tl.sum(centred, 0) / tl.maximum(count, 1).to(tl.float32)
        centred = tl.where(row_mask[:, None], centred - mean[None, :], 0.0)
        at = tile * channels + n
        tl.store(means_ptr + at, pivot + mean, column_mask)
        tl.store(m2s_ptr + at, tl.sum(centred * centred, 0), column_mask)
        if first_columns:
            tl.store(counts_ptr + tile, count.to(tl.float32))


@triton.jit
def store_gradient(
    acc,
    out_ptr,
    raw_ptr,
    offsets,
    row_mask,
    n,
    channels,
    rows_ptr,
    segment,
    sums_ptr,
    centred_sums_ptr,
    tile,
    slope,
    ACT: tl.constexpr,
):
    """``rows_ptr``: rows of the norm of raw (`load_rows`), or None: then u is raw itself."""
    column_mask = n < channels
    mask = row_mask[:, None] & column_mask[None, :]
    raw = tl.load(raw_ptr + offsets, mask, other=0.0).to(tl.float32)
    if rows_ptr is not None:
        center, scale, beta = load_rows(rows_ptr, segment, channels, n, column_mask)
        u = normalise(raw, center, scale, beta)
        if ACT >= 0:
            acc *= activation_grad(u, slope, ACT)
        out = acc * scale[None, :]
        if sums_ptr is not None:
            a = tl.where(row_mask[:, None], acc, 0.0)
            at = tile * channels + n
            tl.store(sums_ptr + at, tl.sum(a, 0), column_mask)
            sum_ax = tl.sum(a * (raw - center[None, :]), 0)
            tl.store(centred_sums_ptr + at, sum_ax, column_mask)
    else:
        out = acc * activation_grad(raw, slope, ACT)
    tl.store(out_ptr + offsets, out.to(out_ptr.dtype.element_ty), mask)
