"""The memory-bound passes between the products: norm and activation, and their gradient.

Each merges what a product summed a tile at a time by itself: every program all partials of its
channels, in the same order. So no launch stands between a product and its pass.
"""

import triton
import triton.language as tl

from fastgan.kernels.conv_block.merge import merge_partials, sum_rows
from fastgan.kernels.conv_block.tiles import apply_act, load_rows, normalise, round_operand
from fastgan.kernels.norm_act.forward import inverse_std, load_affine
from fastgan.kernels.norm_act.running import move_running

SHAPE_ARGUMENTS = (
    "segments", "units", "length", "partials", "chunks", "chunk_tiles", "column_tiles",
)  # fmt: skip


@triton.jit
def _share(units, chunks, column_tiles, BLOCK_C: tl.constexpr):
    """(segment, chunk, channels, their number in all) of this program."""
    pid = tl.program_id(0)
    column = pid % column_tiles * BLOCK_C + tl.arange(0, BLOCK_C)
    rest = pid // column_tiles
    return (rest // chunks).to(tl.int64), rest % chunks, column, units * 16


@triton.jit
def _tile(t, segment, length, column, channels, BLOCK_M: tl.constexpr):
    """(start, offsets from it, mask) of tile t of a segment."""
    first = t * BLOCK_M
    lane = tl.arange(0, BLOCK_M)
    offsets = lane[:, None] * channels + column[None, :]
    mask = (first + lane < length)[:, None] & (column < channels)[None, :]
    return (segment * length + first) * channels, offsets, mask


@triton.jit(do_not_specialize=SHAPE_ARGUMENTS)
def norm_input_kernel(
    x_ptr,
    counts_ptr,
    means_ptr,
    m2s_ptr,
    gamma_ptr,
    beta_ptr,
    running_mean_ptr,
    running_var_ptr,
    z_ptr,
    mean_ptr,
    var_ptr,
    rows_ptr,
    eps,
    momentum,
    slope,
    segments,
    units,
    length,
    partials,
    chunks,
    chunk_tiles,
    column_tiles,
    AVERAGE: tl.constexpr,
    ACT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """z = act(norm(x)) by the statistics whose partials (segments, partials, C) came with x, of
    (segments * length, C), rounded as an operand of products in a PRECISION. mean and var
    (segments, C), var biased, and the norm's rows (segments, 3, C) of `load_rows` are stored, and
    the running statistics moved as by `update_running_stats_`.

    Reads x once and 8 bytes a channel, partial and program; writes z once.
    """
    segment, chunk, column, channels = _share(units, chunks, column_tiles, BLOCK_C)
    inside = column < channels
    _, mean, var = _moments(
        counts_ptr, means_ptr, m2s_ptr, segment, partials, channels, column, BLOCK_K, BLOCK_C
    )
    gamma, beta = load_affine(gamma_ptr, beta_ptr, column, inside)
    scale = gamma * inverse_std(var, eps)
    if chunk == 0:
        at = segment * channels + column
        tl.store(mean_ptr + at, mean, inside)
        tl.store(var_ptr + at, var, inside)
        at += 2 * segment * channels
        tl.store(rows_ptr + at, mean, inside)
        tl.store(rows_ptr + at + channels, scale, inside)
        tl.store(rows_ptr + at + 2 * channels, beta, inside)
    moved = tl.where((segment == 0) & (chunk == 0), segments, 0)
    if running_mean_ptr is not None and moved > 0:
        move_running(
            running_mean_ptr, running_var_ptr, _unbiased_moments,
            (counts_ptr, means_ptr, m2s_ptr, partials, channels, column, BLOCK_K, BLOCK_C),
            momentum, moved, column, inside, AVERAGE,
        )  # fmt: skip
    first = chunk * chunk_tiles
    last = tl.minimum(first + chunk_tiles, (length + BLOCK_M - 1) // BLOCK_M)
    for t in range(first, last):
        start, offsets, mask = _tile(t, segment, length, column, channels, BLOCK_M)
        x = tl.load(x_ptr + start + offsets, mask, other=0.0).to(tl.float32)
        z = apply_act(normalise(x, mean, scale, beta), slope, ACT)
        z = round_operand(z, z_ptr.dtype.element_ty, PRECISION)
        tl.store(z_ptr + start + offsets, z, mask)


@triton.jit
def _moments(
    counts_ptr,
    means_ptr,
    m2s_ptr,
    segment,
    partials,
    channels,
    column,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """(count, mean, biased variance) of a segment."""
    first = segment * partials
    total, mean, m2 = merge_partials(
        counts_ptr, means_ptr, m2s_ptr, first, first + partials, channels, column, BLOCK_K, BLOCK_C
    )
    return total, mean, m2 / tl.maximum(total, 1.0)


@triton.jit
def _unbiased_moments(
    segment,
    counts_ptr,
    means_ptr,
    m2s_ptr,
    partials,
    channels,
    column,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    total, mean, var = _moments(
        counts_ptr, means_ptr, m2s_ptr, segment, partials, channels, column, BLOCK_K, BLOCK_C
    )
    return mean, var * (total / (total - 1.0))


@triton.jit(do_not_specialize=SHAPE_ARGUMENTS)
def norm_gradient_kernel(
    g_ptr,
    x_ptr,
    var_ptr,
    rows_ptr,
    sums_ptr,
    centred_ptr,
    g_gamma_ptr,
    g_beta_ptr,
    eps,
    segments,
    units,
    length,
    partials,
    chunks,
    chunk_tiles,
    column_tiles,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """The gradient of x through its batch's norm, in place of g = a * scale (`epilogue.py`), a that
    of norm(x), and with the partial sums (segments, partials, C) of a and a * (x - mean):

        g - scale * (mean(a) + xhat * mean(a * xhat))        (Ioffe and Szegedy 2015)

    g_beta and g_gamma (C,), unless None, are the sums of a and of a * xhat over all segments.
    """
    segment, chunk, column, channels = _share(units, chunks, column_tiles, BLOCK_C)
    inside = column < channels
    s1, s2, rstd = _norm_sums(
        sums_ptr, centred_ptr, var_ptr, eps, segment, partials, channels, column, BLOCK_K, BLOCK_C
    )
    center, scale, _ = load_rows(rows_ptr, segment, channels, column, inside)
    k1 = -scale * rstd * (s2 / length)
    k2 = -scale * (s1 / length)
    if g_gamma_ptr is not None:
        _store_affine(
            g_gamma_ptr, g_beta_ptr, s1, s2, sums_ptr, centred_ptr, var_ptr, eps,
            tl.where((segment == 0) & (chunk == 0), segments, 0), partials, channels, column,
            BLOCK_K, BLOCK_C,
        )  # fmt: skip
    first = chunk * chunk_tiles
    last = tl.minimum(first + chunk_tiles, (length + BLOCK_M - 1) // BLOCK_M)
    for t in range(first, last):
        start, offsets, mask = _tile(t, segment, length, column, channels, BLOCK_M)
        x = tl.load(x_ptr + start + offsets, mask, other=0.0).to(tl.float32)
        g = tl.load(g_ptr + start + offsets, mask, other=0.0).to(tl.float32)
        g += normalise(x, center, k1, k2)
        tl.store(g_ptr + start + offsets, g.to(g_ptr.dtype.element_ty), mask)


@triton.jit
def _norm_sums(
    sums_ptr,
    centred_ptr,
    var_ptr,
    eps,
    segment,
    partials,
    channels,
    column,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """(sum a, sum a * xhat, 1 / std) of a segment."""
    first = segment * partials
    var = tl.load(var_ptr + segment * channels + column, column < channels, other=1.0)
    rstd = inverse_std(var, eps)
    s1 = sum_rows(sums_ptr, first, first + partials, channels, column, BLOCK_K, BLOCK_C)
    s2 = sum_rows(centred_ptr, first, first + partials, channels, column, BLOCK_K, BLOCK_C)
    return s1, rstd * s2, rstd


@triton.jit
def _store_affine(
    g_gamma_ptr,
    g_beta_ptr,
    s1,
    s2,
    sums_ptr,
    centred_ptr,
    var_ptr,
    eps,
    segments,
    partials,
    channels,
    column,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Stores the sums over some segments, the first given, or nothing where there are none."""
    if segments > 0:
        for s in range(1, segments):
            more1, more2, _ = _norm_sums(
                sums_ptr, centred_ptr, var_ptr, eps, tl.cast(s, tl.int64), partials, channels,
                column, BLOCK_K, BLOCK_C,
            )  # fmt: skip
            s1 += more1
            s2 += more2
        tl.store(g_gamma_ptr + column, s2, column < channels)
        tl.store(g_beta_ptr + column, s1, column < channels)
