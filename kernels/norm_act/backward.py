"""Device code of norm_act's backward pass: sums, gradient, and both in one.

With u what is normalised (x, or act(x) in the order act_norm), xhat = (u - mean) * rstd and
y = weight * xhat + bias, let a = dz * act'(y), or dz where the activation came first. Then

    dbias = S1 = sum a,    dweight = S2 = sum a * xhat,
    du = weight * rstd * (a - S1 / M - xhat * S2 / M)      M values a channel and segment

(Ioffe and Szegedy 2015), without the two sum terms where the statistics are constants. y and z are
formed again from x, so the forward pass saves nothing else.
"""

import triton
import triton.language as tl

from fastgan.kernels.core.device import activation_grad, channel_of, extents, split_program, tile
from fastgan.kernels.core.geometry import SHAPE_ARGUMENTS
from fastgan.kernels.norm_act.forward import inverse_std, load_affine, load_value


@triton.jit
def _load_pair(
    dz_ptr,
    x_ptr,
    offsets,
    mask,
    mean,
    rstd,
    weight,
    bias,
    slope,
    ACT: tl.constexpr,
    ACT_FIRST: tl.constexpr,
):
    """(a, xhat) of one tile; a is 0 where masked."""
    a = tl.load(dz_ptr + offsets, mask, other=0.0).to(tl.float32)
    u = load_value(x_ptr, offsets, mask, slope, ACT, ACT_FIRST)
    centred = u - mean[None, :]
    if not ACT_FIRST:
        # The forward pass's own arithmetic, so that y falls on the same side of 0.
        y = centred * (rstd * weight)[None, :] + bias[None, :]
        a *= activation_grad(y, slope, ACT)
    return a, centred * rstd[None, :]


@triton.jit
def _gradient(
    a,
    xhat,
    mean_a,
    mean_ax,
    scale,
    x_ptr,
    offsets,
    mask,
    slope,
    ACT: tl.constexpr,
    ACT_FIRST: tl.constexpr,
    TRAINING: tl.constexpr,
):
    """dx of one tile. The order act_norm needs x itself once more: a load that hits the cache."""
    if TRAINING:
        a = a - mean_a[None, :] - xhat * mean_ax[None, :]
    dx = a * scale[None, :]
    if ACT_FIRST:
        x = tl.load(x_ptr + offsets, mask, other=0.0).to(tl.float32)
        dx *= activation_grad(x, slope, ACT)
    return dx


@triton.jit(do_not_specialize=SHAPE_ARGUMENTS)
def backward_kernel(
    dz_ptr,
    x_ptr,
    mean_ptr,
    var_ptr,
    weight_ptr,
    bias_ptr,
    s1_ptr,
    s2_ptr,
    partial1_ptr,
    partial2_ptr,
    dx_ptr,
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
    """One pass over dz and x; what it makes follows from which pointers are given.

    partial1, partial2 (segments, chunks, width): sums of a and a * xhat over a chunk.
    dx: the gradient; with s1 and s2 (segments, C), the finished sums, the one of training.
    Reads dz and x once, writes dx once where asked, and 8 bytes a column and chunk of partials.
    """
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
    mean_a = mean
    mean_ax = mean
    if s1_ptr is not None:
        total = (planes.to(tl.int64) * length * FOLD).to(tl.float32)
        mean_a = tl.load(s1_ptr + statistic, inside, other=0.0) / total
        mean_ax = tl.load(s2_ptr + statistic, inside, other=0.0) / total

    sum_a = tl.zeros([BLOCK_P * BLOCK_L, BLOCK_W], tl.float32)
    sum_ax = tl.zeros([BLOCK_P * BLOCK_L, BLOCK_W], tl.float32)
    first = chunk * tiles_per_chunk
    for t in tl.range(first, tl.minimum(first + tiles_per_chunk, tiles), num_stages=STAGES):
        offsets, mask = tile(
            t, segment, column0, planes, length, width, CHANNELS_LAST, BLOCK_P, BLOCK_L, BLOCK_W,
            WIDE,
        )  # fmt: skip
        a, xhat = _load_pair(
            dz_ptr, x_ptr, offsets, mask, mean, rstd, weight, bias, slope, ACT, ACT_FIRST
        )
        if partial1_ptr is not None:
            sum_a += a
            sum_ax += a * xhat
        if dx_ptr is not None:
            dx = _gradient(
                a, xhat, mean_a, mean_ax, rstd * weight, x_ptr, offsets, mask, slope,
                ACT, ACT_FIRST, s1_ptr is not None,
            )  # fmt: skip
            tl.store(dx_ptr + offsets, dx.to(dx_ptr.dtype.element_ty), mask)
    if partial1_ptr is not None:
        out = (segment * chunks + chunk) * width + column
        tl.store(partial1_ptr + out, tl.sum(sum_a, 0), inside)
        tl.store(partial2_ptr + out, tl.sum(sum_ax, 0), inside)


@triton.jit(do_not_specialize=SHAPE_ARGUMENTS)
def backward_whole_kernel(
    dz_ptr,
    x_ptr,
    mean_ptr,
    var_ptr,
    weight_ptr,
    bias_ptr,
    s1_ptr,
    s2_ptr,
    dx_ptr,
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
    """Sums and gradient of training, one segment and column block a program, in one launch.

    s1 and s2 (segments, C) get the sums unless None. RESIDENT (one tile): dz and x are read once;
    otherwise twice, the second time from cache. Writes dx once.
    """
    length, width = extents(length, width, units, VEC, CHANNELS_LAST)
    segment, _, block = split_program(column_blocks, chunks)
    column0 = block * BLOCK_W
    column = column0 + tl.arange(0, BLOCK_W)
    inside = column < width
    statistic = segment * width + column
    mean = tl.load(mean_ptr + statistic, inside, other=0.0)
    rstd = inverse_std(tl.load(var_ptr + statistic, inside, other=1.0), eps)
    weight, bias = load_affine(weight_ptr, bias_ptr, column, inside)
    total = (planes.to(tl.int64) * length).to(tl.float32)
    if RESIDENT:
        offsets, mask = tile(
            0, segment, column0, planes, length, width, CHANNELS_LAST, BLOCK_P, BLOCK_L, BLOCK_W,
            WIDE,
        )  # fmt: skip
        a, xhat = _load_pair(
            dz_ptr, x_ptr, offsets, mask, mean, rstd, weight, bias, slope, ACT, ACT_FIRST
        )
        s1 = tl.sum(a, 0)
        s2 = tl.sum(a * xhat, 0)
    else:
        sum_a = tl.zeros([BLOCK_P * BLOCK_L, BLOCK_W], tl.float32)
        sum_ax = tl.zeros([BLOCK_P * BLOCK_L, BLOCK_W], tl.float32)
        for t in tl.range(0, tiles, num_stages=STAGES):
            offsets, mask = tile(
                t, segment, column0, planes, length, width, CHANNELS_LAST, BLOCK_P, BLOCK_L,
                BLOCK_W, WIDE,
            )  # fmt: skip
            a, xhat = _load_pair(
                dz_ptr, x_ptr, offsets, mask, mean, rstd, weight, bias, slope, ACT, ACT_FIRST
            )
            sum_a += a
            sum_ax += a * xhat
        s1 = tl.sum(sum_a, 0)
        s2 = tl.sum(sum_ax, 0)
    if s1_ptr is not None:
        tl.store(s1_ptr + statistic, s1, inside)
        tl.store(s2_ptr + statistic, s2, inside)
    if RESIDENT:
        dx = _gradient(
            a, xhat, s1 / total, s2 / total, rstd * weight, x_ptr, offsets, mask, slope,
            ACT, ACT_FIRST, True,
        )  # fmt: skip
        tl.store(dx_ptr + offsets, dx.to(dx_ptr.dtype.element_ty), mask)
    else:
        for t in tl.range(0, tiles, num_stages=STAGES):
            offsets, mask = tile(
                t, segment, column0, planes, length, width, CHANNELS_LAST, BLOCK_P, BLOCK_L,
                BLOCK_W, WIDE,
            )  # fmt: skip
            a, xhat = _load_pair(
                dz_ptr, x_ptr, offsets, mask, mean, rstd, weight, bias, slope, ACT, ACT_FIRST
            )
            dx = _gradient(
                a, xhat, s1 / total, s2 / total, rstd * weight, x_ptr, offsets, mask, slope,
                ACT, ACT_FIRST, True,
            )  # fmt: skip
            tl.store(dx_ptr + offsets, dx.to(dx_ptr.dtype.element_ty), mask)
