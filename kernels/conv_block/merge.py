"""Device code around the convolutions: packed weights, rows, partials merged in a fixed order."""

import triton
import triton.language as tl

from fastgan.kernels.conv_block.tiles import round_operand
from fastgan.kernels.norm_act.forward import inverse_std, load_affine


@triton.jit(
    do_not_specialize=(
        "K", "N", "k_blocks", "n_blocks", "taps", "k_stride", "n_stride", "d_stride", "h_stride",
        "w_stride",
    )
)  # fmt: skip
def pack_kernel(
    weight_ptr,
    packed_ptr,
    K,
    N,
    k_blocks,
    n_blocks,
    taps,
    k_stride,
    n_stride,
    d_stride,
    h_stride,
    w_stride,
    KH: tl.constexpr,
    KW: tl.constexpr,
    TAPS_FIRST: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """weight (K, N, taps) of any strides as a dense (taps, K, N), or (K, taps, N), of whole blocks
    and 0 beyond K and N, in the type of the matrix operand. A program takes all taps that it can at
    once: they are adjacent in torch's layout, where it reads a line, and far apart where it writes.
    """
    pid = tl.program_id(0)
    t = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)[:, None, None]
    k = (pid // n_blocks) * BLOCK_K + tl.arange(0, BLOCK_K)[None, :, None]
    n = (pid % n_blocks) * BLOCK_N + tl.arange(0, BLOCK_N)[None, None, :]
    at = k.to(tl.int64) * k_stride + n.to(tl.int64) * n_stride
    at += t // (KH * KW) * d_stride + (t // KW) % KH * h_stride + t % KW * w_stride
    weight = tl.load(weight_ptr + at, (t < taps) & (k < K) & (n < N), other=0.0).to(tl.float32)
    out = t.to(tl.int64) * (k_blocks * BLOCK_K) + k if TAPS_FIRST else k.to(tl.int64) * taps + t
    out = out * (n_blocks * BLOCK_N) + n
    weight = round_operand(weight, packed_ptr.dtype.element_ty, PRECISION)
    tl.store(packed_ptr + out, weight, t < taps)


@triton.jit(do_not_specialize=("in_total", "C_IN", "out_total", "C_OUT"))
def rows_kernel(
    mean_ptr,
    var_ptr,
    gamma_ptr,
    beta_ptr,
    input_rows_ptr,
    y_mean_ptr,
    g_mean_ptr,
    g_var_ptr,
    gradient_rows_ptr,
    eps,
    count,
    in_total,
    C_IN,
    out_total,
    C_OUT,
    BLOCK: tl.constexpr,
):
    """Rows (segments, 3, C) of the prologues, either or both.

    input: (mean, gamma * rstd, beta). gradient: (y_mean, 2 g_var / count, g_mean / count), which
    make t = g + k1 * (y - center) + k2 the whole gradient of y. One element a lane.
    """
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if input_rows_ptr is not None:
        mask = lane < in_total
        channel = lane % C_IN
        gamma, beta = load_affine(gamma_ptr, beta_ptr, channel, mask)
        mean = tl.load(mean_ptr + lane, mask, other=0.0)
        rstd = inverse_std(tl.load(var_ptr + lane, mask, other=1.0), eps)
        out = input_rows_ptr + lane // C_IN * (3 * C_IN) + channel
        tl.store(out, mean, mask)
        tl.store(out + C_IN, gamma * rstd, mask)
        tl.store(out + 2 * C_IN, beta, mask)
    if gradient_rows_ptr is not None:
        mask = lane < out_total
        center = tl.load(y_mean_ptr + lane, mask, other=0.0)
        k1 = tl.zeros([BLOCK], tl.float32)
        k2 = tl.zeros([BLOCK], tl.float32)
        if g_var_ptr is not None:
            k1 = tl.load(g_var_ptr + lane, mask, other=0.0) * (2.0 / count)
        if g_mean_ptr is not None:
            k2 = tl.load(g_mean_ptr + lane, mask, other=0.0) / count
        out = gradient_rows_ptr + lane // C_OUT * (3 * C_OUT) + lane % C_OUT
        tl.store(out, center, mask)
        tl.store(out + C_OUT, k1, mask)
        tl.store(out + 2 * C_OUT, k2, mask)


@triton.jit
def _share(partials, chunk, C, BLOCK_C: tl.constexpr):
    """(first group-relative partial, one past the last, output row, channels) of this program.

    Groups of ``partials`` rows are cut into chunks of ``chunk``; an output row is a (group, chunk).
    """
    column_blocks = (C + BLOCK_C - 1) // BLOCK_C
    chunks = (partials + chunk - 1) // chunk
    pid = tl.program_id(0)
    row = pid // column_blocks
    group = row // chunks
    first = group.to(tl.int64) * partials + (row % chunks) * chunk
    last = tl.minimum(first + chunk, (group.to(tl.int64) + 1) * partials)
    return first, last, row, (pid % column_blocks) * BLOCK_C + tl.arange(0, BLOCK_C)


@triton.jit
def merge_partials(
    counts_ptr,
    means_ptr,
    m2s_ptr,
    first,
    last,
    C,
    channel,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """(count, mean, M2) of channels from partials [first, last), as Chan, Golub and LeVeque (1979)
    merge them.

    Means are taken about the first partial's, so that they keep their digits. Reads the partials
    twice, the second time from cache.
    """
    inside = channel < C
    pivot = tl.load(means_ptr + first * C + channel, inside, other=0.0)
    seen = tl.zeros([BLOCK_K], tl.float32)
    weighted = tl.zeros([BLOCK_K, BLOCK_C], tl.float32)
    for k0 in range(first, last, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        mask = (k < last)[:, None] & inside[None, :]
        count = tl.load(counts_ptr + k, k < last, other=0.0)
        mean = tl.load(means_ptr + k[:, None] * C + channel[None, :], mask, other=0.0)
        seen += count
        weighted += tl.where(count[:, None] > 0, (mean - pivot[None, :]) * count[:, None], 0.0)
    total = tl.sum(seen, 0)
    offset = tl.sum(weighted, 0) / tl.maximum(total, 1.0)

    m2 = tl.zeros([BLOCK_K, BLOCK_C], tl.float32)
    for k0 in range(first, last, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        mask = (k < last)[:, None] & inside[None, :]
        count = tl.load(counts_ptr + k, k < last, other=0.0)
        at = k[:, None] * C + channel[None, :]
        shift = tl.load(means_ptr + at, mask, other=0.0) - pivot[None, :] - offset[None, :]
        between = tl.where(count[:, None] > 0, count[:, None] * shift * shift, 0.0)
        m2 += tl.load(m2s_ptr + at, mask, other=0.0) + between
    return total, pivot + offset, tl.sum(m2, 0)


@triton.jit(do_not_specialize=("partials", "chunk", "C"))
def merge_statistics_kernel(
    counts_ptr,
    means_ptr,
    m2s_ptr,
    out_counts_ptr,
    out_mean_ptr,
    out_m2_ptr,
    partials,
    chunk,
    C,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """(count, mean, M2) of each chunk of each group from those of its partials; with out_counts
    None it is the last merge: mean and biased variance.
    """
    first, last, row, channel = _share(partials, chunk, C, BLOCK_C)
    inside = channel < C
    total, mean, m2 = merge_partials(
        counts_ptr, means_ptr, m2s_ptr, first, last, C, channel, BLOCK_K, BLOCK_C
    )
    out = row.to(tl.int64) * C + channel
    tl.store(out_mean_ptr + out, mean, inside)
    if out_counts_ptr is None:
        m2 = m2 / tl.maximum(total, 1.0)
    else:
        tl.store(out_counts_ptr + row, total)
    tl.store(out_m2_ptr + out, m2, inside)


@triton.jit
def sum_rows(start, first, last, C, channel, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr):
    acc = tl.zeros([BLOCK_K, BLOCK_C], tl.float32)
    for k0 in range(first, last, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        mask = (k < last)[:, None] & (channel < C)[None, :]
        acc += tl.load(start + k[:, None] * C + channel[None, :], mask, other=0.0)
    return tl.sum(acc, 0)


@triton.jit(do_not_specialize=("partials", "chunk", "C"))
def fold_sums_kernel(
    partial0_ptr,
    partial1_ptr,
    out0_ptr,
    out1_ptr,
    partials,
    chunk,
    C,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Sums over each chunk of each group, of two arrays of partials."""
    first, last, row, channel = _share(partials, chunk, C, BLOCK_C)
    out = row.to(tl.int64) * C + channel
    sum0 = sum_rows(partial0_ptr, first, last, C, channel, BLOCK_K, BLOCK_C)
    tl.store(out0_ptr + out, sum0, channel < C)
    sum1 = sum_rows(partial1_ptr, first, last, C, channel, BLOCK_K, BLOCK_C)
    tl.store(out1_ptr + out, sum1, channel < C)


@triton.jit(do_not_specialize=("groups", "groups_per_program", "partials", "C"))
def finish_gradient_kernel(
    partial_a_ptr,
    partial_ax_ptr,
    var_ptr,
    gamma_ptr,
    g_mean_ptr,
    g_var_ptr,
    g_gamma_ptr,
    g_beta_ptr,
    eps,
    groups,
    groups_per_program,
    partials,
    C,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The gradients of the normalisation from the partial sums of a and a * (x - mean).

    With S1 = sum a and S2 = rstd * sum a (x - mean) of a (segment, channel): g_mean =
    -gamma rstd S1 and g_var = -gamma rstd^2 S2 / 2, each (groups, C); g_beta and g_gamma are S1 and
    S2 summed over a program's groups, in order: (programs along the groups, C).
    """
    column_blocks = (C + BLOCK_C - 1) // BLOCK_C
    pid = tl.program_id(0)
    program = (pid // column_blocks).to(tl.int64)
    channel = (pid % column_blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = channel < C
    gamma, _ = load_affine(gamma_ptr, None, channel, inside)
    sum1 = tl.zeros([BLOCK_C], tl.float32)
    sum2 = tl.zeros([BLOCK_C], tl.float32)
    start = program * groups_per_program
    for group in range(start, tl.minimum(start + groups_per_program, groups)):
        at = group * C + channel
        first = group * partials
        rstd = inverse_std(tl.load(var_ptr + at, inside, other=1.0), eps)
        s1 = sum_rows(partial_a_ptr, first, first + partials, C, channel, BLOCK_K, BLOCK_C)
        s2 = rstd * sum_rows(partial_ax_ptr, first, first + partials, C, channel, BLOCK_K, BLOCK_C)
        tl.store(g_mean_ptr + at, -gamma * rstd * s1, inside)
        tl.store(g_var_ptr + at, -0.5 * gamma * rstd * rstd * s2, inside)
        sum1 += s1
        sum2 += s2
    out = program * C + channel
    tl.store(g_gamma_ptr + out, sum2, inside)
    tl.store(g_beta_ptr + out, sum1, inside)
