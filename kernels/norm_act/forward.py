"""Device code of norm_act's forward pass: statistics, merge, apply, and all three in one.

Statistics are gathered in the space of d = u - pivot, u the normalised tensor's value and pivot its
first value in the segment's channel: means are then of the size of the spread, not of the mean, and
keep their digits. A lane runs Welford's recurrence; lanes and chunks merge as Chan, Golub and
LeVeque (1979) do, in one fixed order.
"""

import triton
import triton.language as tl

from fastgan.kernels.core.device import (
    activate,
    channel_of,
    chunk_counts,
    extents,
    split_program,
    tile,
)
from fastgan.kernels.core.geometry import SHAPE_ARGUMENTS


@triton.jit
def load_value(x_ptr, offsets, mask, slope, ACT: tl.constexpr, ACT_FIRST: tl.constexpr):
    """What is normalised: x, or act(x) with ACT_FIRST."""
    u = tl.load(x_ptr + offsets, mask, other=0.0).to(tl.float32)
    if ACT_FIRST:
        u = activate(u, slope, ACT)
    return u


@triton.jit
def load_pivot(
    x_ptr,
    segment,
    column,
    inside,
    planes,
    length,
    width,
    slope,
    ACT: tl.constexpr,
    ACT_FIRST: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """The first value of each channel of a segment. ``column`` counts channels, not folded ones."""
    if CHANNELS_LAST:
        offsets = segment * length * width + column
    else:
        offsets = (segment * planes * width + column) * length
    return load_value(x_ptr, offsets, inside, slope, ACT, ACT_FIRST)


@triton.jit
def load_affine(weight_ptr, bias_ptr, channel, inside):
    """(weight, bias) of channels; 1 and 0 where the pointer is None."""
    weight = tl.full(channel.shape, 1.0, tl.float32)
    bias = tl.zeros(channel.shape, tl.float32)
    if weight_ptr is not None:
        weight = tl.load(weight_ptr + channel, inside, other=0.0)
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + channel, inside, other=0.0)
    return weight, bias


@triton.jit
def inverse_std(var, eps):
    """1 / sqrt(var + eps), correctly rounded: one a channel, so it costs nothing."""
    return tl.div_rn(1.0, tl.sqrt_rn(var + eps))


@triton.jit
def _normalise(u, mean, scale, bias, slope, ACT: tl.constexpr, ACT_FIRST: tl.constexpr):
    y = (u - mean[None, :]) * scale[None, :] + bias[None, :]
    if not ACT_FIRST:
        y = activate(y, slope, ACT)
    return y


@triton.jit
def _welford(
    x_ptr,
    pivot,
    segment,
    first,
    last,
    column0,
    planes,
    length,
    width,
    slope,
    ACT: tl.constexpr,
    ACT_FIRST: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_W: tl.constexpr,
    WIDE: tl.constexpr,
    STAGES: tl.constexpr,
):
    """(mean - pivot, M2) of each column over tiles [first, last).

    Tails come last, so the values a lane has seen are t - first + 1 or the lane sees no more.
    """
    mean = tl.zeros([BLOCK_P * BLOCK_L, BLOCK_W], tl.float32)
    m2 = tl.zeros([BLOCK_P * BLOCK_L, BLOCK_W], tl.float32)
    for t in tl.range(first, last, num_stages=STAGES):
        offsets, mask = tile(
            t, segment, column0, planes, length, width, CHANNELS_LAST, BLOCK_P, BLOCK_L, BLOCK_W,
            WIDE,
        )  # fmt: skip
        d = load_value(x_ptr, offsets, mask, slope, ACT, ACT_FIRST) - pivot[None, :]
        delta = tl.where(mask, d - mean, 0.0)
        mean += delta * (1.0 / tl.cast(t - first + 1, tl.float32))
        m2 += delta * (d - mean)
    full, tails, tail = chunk_counts(first, last, planes, length, CHANNELS_LAST, BLOCK_P, BLOCK_L)
    along = tl.arange(0, BLOCK_P * BLOCK_L) % BLOCK_L
    seen = (full + tl.where(along < tail, tails, 0)).to(tl.float32)
    total = tl.sum(seen, 0)
    mean_all = tl.sum(mean * (seen / total)[:, None], 0)
    shift = mean - mean_all[None, :]
    return mean_all, tl.sum(m2 + seen[:, None] * shift * shift, 0)


@triton.jit(do_not_specialize=SHAPE_ARGUMENTS)
def stats_kernel(
    x_ptr,
    means_ptr,
    m2s_ptr,
    slope,
    planes,
    length,
    width,
    units,
    column_blocks,
    chunks,
    tiles,
    tiles_per_chunk,
    ACT: tl.constexpr,
    ACT_FIRST: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    FOLD: tl.constexpr,
    VEC: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_W: tl.constexpr,
    WIDE: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Partial (mean - pivot, M2), each (segments, chunks, width) float32, of one chunk of tiles.

    Reads x once; writes 8 bytes a column and chunk.
    """
    length, width = extents(length, width, units, VEC, CHANNELS_LAST)
    segment, chunk, block = split_program(column_blocks, chunks)
    column0 = block * BLOCK_W
    column = column0 + tl.arange(0, BLOCK_W)
    inside = column < width
    pivot = load_pivot(
        x_ptr, segment, channel_of(column, width, FOLD), inside, planes, length, width,
        slope, ACT, ACT_FIRST, CHANNELS_LAST,
    )  # fmt: skip
    first = chunk * tiles_per_chunk
    mean, m2 = _welford(
        x_ptr, pivot, segment, first, tl.minimum(first + tiles_per_chunk, tiles), column0,
        planes, length, width, slope, ACT, ACT_FIRST, CHANNELS_LAST, BLOCK_P, BLOCK_L, BLOCK_W,
        WIDE, STAGES,
    )  # fmt: skip
    out = (segment * chunks + chunk) * width + column
    tl.store(means_ptr + out, mean, inside)
    tl.store(m2s_ptr + out, m2, inside)


@triton.jit(do_not_specialize=SHAPE_ARGUMENTS)
def merge_stats_kernel(
    x_ptr,
    means_ptr,
    m2s_ptr,
    mean_ptr,
    var_ptr,
    slope,
    planes,
    length,
    width,
    chunks,
    tiles,
    tiles_per_chunk,
    ACT: tl.constexpr,
    ACT_FIRST: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    FOLD: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """mean and biased variance, each (segments, C), from the partials of stats_kernel.

    First the mean over all partials, then M2 about it: reads the partials twice (from cache).
    """
    C = width // FOLD
    column_blocks = (C + BLOCK_C - 1) // BLOCK_C
    pid = tl.program_id(0)
    segment = (pid // column_blocks).to(tl.int64)
    channel = (pid % column_blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = channel < C
    partials = chunks * FOLD
    start = segment * partials * C
    total = (planes.to(tl.int64) * length * FOLD).to(tl.float32)

    mean = tl.zeros([BLOCK_K, BLOCK_C], tl.float32)
    for k0 in range(0, partials, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        seen = _values_of_partial(
            k // FOLD, planes, length, tiles, tiles_per_chunk, CHANNELS_LAST, BLOCK_P, BLOCK_L
        )
        offsets = start + k[:, None].to(tl.int64) * C + channel[None, :]
        mask = (k < partials)[:, None] & inside[None, :]
        mean += tl.load(means_ptr + offsets, mask, other=0.0) * (seen / total)[:, None]
    mean_all = tl.sum(mean, 0)

    m2 = tl.zeros([BLOCK_K, BLOCK_C], tl.float32)
    for k0 in range(0, partials, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        seen = _values_of_partial(
            k // FOLD, planes, length, tiles, tiles_per_chunk, CHANNELS_LAST, BLOCK_P, BLOCK_L
        )
        offsets = start + k[:, None].to(tl.int64) * C + channel[None, :]
        mask = (k < partials)[:, None] & inside[None, :]
        shift = tl.load(means_ptr + offsets, mask, other=0.0) - mean_all[None, :]
        between = tl.where(mask, seen[:, None] * shift * shift, 0.0)
        m2 += tl.load(m2s_ptr + offsets, mask, other=0.0) + between

    pivot = load_pivot(
        x_ptr, segment, channel, inside, planes, length, width, slope, ACT, ACT_FIRST, CHANNELS_LAST
    )
    tl.store(mean_ptr + segment * C + channel, pivot + mean_all, inside)
    tl.store(var_ptr + segment * C + channel, tl.sum(m2, 0) / total, inside)


@triton.jit
def _values_of_partial(
    chunk,
    planes,
    length,
    tiles,
    tiles_per_chunk,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_L: tl.constexpr,
):
    """How many values a column of this chunk has seen; chunks past the last count 0."""
    first = tl.minimum(chunk * tiles_per_chunk, tiles)
    last = tl.minimum(first + tiles_per_chunk, tiles)
    full, tails, tail = chunk_counts(first, last, planes, length, CHANNELS_LAST, BLOCK_P, BLOCK_L)
    return (full.to(tl.float32) * BLOCK_L + (tails * tail).to(tl.float32)) * BLOCK_P


@triton.jit(do_not_specialize=SHAPE_ARGUMENTS)
def apply_kernel(
    x_ptr,
    mean_ptr,
    var_ptr,
    weight_ptr,
    bias_ptr,
    z_ptr,
    eps,
    slope,
    planes,
    length,
    width,
    units,
    column_blocks,
    chunks,
    tiles,
    tiles_per_chunk,
    ACT: tl.constexpr,
    ACT_FIRST: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    FOLD: tl.constexpr,
    VEC: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_W: tl.constexpr,
    WIDE: tl.constexpr,
    STAGES: tl.constexpr,
):
    """z from x and the statistics. Reads x once, writes z once."""
    length, width = extents(length, width, units, VEC, CHANNELS_LAST)
    segment, chunk, block = split_program(column_blocks, chunks)
    column0 = block * BLOCK_W
    column = column0 + tl.arange(0, BLOCK_W)
    inside = column < width
    channel = channel_of(column, width, FOLD)
    statistic = segment * (width // FOLD) + channel
    mean = tl.load(mean_ptr + statistic, inside, other=0.0)
    rstd = inverse_std(tl.load(var_ptr + statistic, inside, other=1.0), eps)
    weight, bias = load_affine(weight_ptr, bias_ptr, channel, inside)
    first = chunk * tiles_per_chunk
    for t in tl.range(first, tl.minimum(first + tiles_per_chunk, tiles), num_stages=STAGES):
        offsets, mask = tile(
            t, segment, column0, planes, length, width, CHANNELS_LAST, BLOCK_P, BLOCK_L, BLOCK_W,
            WIDE,
        )  # fmt: skip
        u = load_value(x_ptr, offsets, mask, slope, ACT, ACT_FIRST)
        z = _normalise(u, mean, rstd * weight, bias, slope, ACT, ACT_FIRST)
        tl.store(z_ptr + offsets, z.to(z_ptr.dtype.element_ty), mask)


@triton.jit(do_not_specialize=SHAPE_ARGUMENTS)
def train_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    z_ptr,
    mean_ptr,
    var_ptr,
    eps,
    slope,
    planes,
    length,
    width,
    units,
    column_blocks,
    chunks,
    tiles,
    tiles_per_chunk,
    ACT: tl.constexpr,
    ACT_FIRST: tl.constexpr,
    RESIDENT: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    FOLD: tl.constexpr,
    VEC: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_W: tl.constexpr,
    WIDE: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Statistics and z of one segment and column block in one launch.

    RESIDENT (one tile): x is read once and stays in registers; the variance is taken about the
    finished mean. Otherwise x is read twice, the second time from cache. Writes z once.
    """
    length, width = extents(length, width, units, VEC, CHANNELS_LAST)
    segment, _, block = split_program(column_blocks, chunks)
    column0 = block * BLOCK_W
    column = column0 + tl.arange(0, BLOCK_W)
    inside = column < width
    total = (planes.to(tl.int64) * length).to(tl.float32)
    pivot = load_pivot(
        x_ptr, segment, column, inside, planes, length, width, slope, ACT, ACT_FIRST, CHANNELS_LAST
    )
    weight, bias = load_affine(weight_ptr, bias_ptr, column, inside)
    if RESIDENT:
        offsets, mask = tile(
            0, segment, column0, planes, length, width, CHANNELS_LAST, BLOCK_P, BLOCK_L, BLOCK_W,
            WIDE,
        )  # fmt: skip
        u = load_value(x_ptr, offsets, mask, slope, ACT, ACT_FIRST)
        d = tl.where(mask, u - pivot[None, :], 0.0)
        mean = tl.sum(d, 0) / total
        shift = tl.where(mask, d - mean[None, :], 0.0)
        m2 = tl.sum(shift * shift, 0)
    else:
        mean, m2 = _welford(
            x_ptr, pivot, segment, 0, tiles, column0, planes, length, width, slope,
            ACT, ACT_FIRST, CHANNELS_LAST, BLOCK_P, BLOCK_L, BLOCK_W, WIDE, STAGES,
        )  # fmt: skip
    mean += pivot
    var = m2 / total
    statistic = segment * width + column
    tl.store(mean_ptr + statistic, mean, inside)
    tl.store(var_ptr + statistic, var, inside)
    scale = inverse_std(var, eps) * weight
    if RESIDENT:
        z = _normalise(u, mean, scale, bias, slope, ACT, ACT_FIRST)
        tl.store(z_ptr + offsets, z.to(z_ptr.dtype.element_ty), mask)
    else:
        for t in tl.range(0, tiles, num_stages=STAGES):
            offsets, mask = tile(
                t, segment, column0, planes, length, width, CHANNELS_LAST, BLOCK_P, BLOCK_L,
                BLOCK_W, WIDE,
            )  # fmt: skip
            u = load_value(x_ptr, offsets, mask, slope, ACT, ACT_FIRST)
            z = _normalise(u, mean, scale, bias, slope, ACT, ACT_FIRST)
            tl.store(z_ptr + offsets, z.to(z_ptr.dtype.element_ty), mask)
