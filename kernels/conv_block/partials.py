"""What the convolutions sum a tile at a time, and its merging in a fixed order."""

import torch

from fastgan.kernels.conv_block.merge import (
    finish_gradient_kernel,
    fold_sums_kernel,
    merge_statistics_kernel,
)
from fastgan.kernels.core.device import merge_sums
from fastgan.kernels.core.geometry import (
    MERGE_BLOCK_C,
    MERGE_BLOCK_K,
    MERGE_GROUPS,
    MERGE_WARPS,
    cdiv,
    device_guard,
)

Tensor = torch.Tensor

# So many partials a channel are merged by one program; more are first merged in chunks.
MERGE_PARTIALS, MERGE_CHUNK = 2048, 512


def new_partials(
    x: Tensor, segments: int, tiles: int, channels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Unwritten counts (segments, tiles) and two partials (segments, tiles, channels)."""
    counts = x.new_empty((segments, tiles), dtype=torch.float32)
    first, second = x.new_empty((2, segments, tiles, channels), dtype=torch.float32)
    return counts, first, second


def merge_statistics(
    counts: Tensor, means: Tensor, m2s: Tensor, segments: int
) -> tuple[Tensor, Tensor]:
    """(mean, biased variance), each (segments, C), of partials; see `new_partials`."""
    channels = means.shape[-1]
    if counts.numel() // segments > MERGE_PARTIALS:
        counts, means, m2s = fold_statistics(counts, means, m2s, segments, MERGE_CHUNK)
    partials = counts.numel() // segments
    mean, var = means.new_empty((2, segments, channels))
    merge_statistics_kernel[_merge_grid(segments, channels)](
        counts, means, m2s, None, mean, var, partials, partials, channels,
        **_merge_blocks(partials),
    )  # fmt: skip
    return mean, var


def fold_statistics(
    counts: Tensor, means: Tensor, m2s: Tensor, segments: int, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Partials of statistics, ``chunk`` of them merged into one."""
    channels, partials = means.shape[-1], counts.numel() // segments
    chunks = cdiv(partials, chunk)
    folded = new_partials(counts, segments, chunks, channels)
    merge_statistics_kernel[_merge_grid(segments * chunks, channels)](
        counts, means, m2s, *folded, partials, chunk, channels, **_merge_blocks(chunk)
    )
    return folded


def fold_sums(sum_a: Tensor, sum_ax: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """Partial sums (groups, partials, C), ``chunk`` of them added up to one."""
    groups, partials, channels = sum_a.shape
    chunks = cdiv(partials, chunk)
    folded = sum_a.new_empty((2, groups, chunks, channels))
    fold_sums_kernel[_merge_grid(groups * chunks, channels)](
        sum_a, sum_ax, folded[0], folded[1], partials, chunk, channels, **_merge_blocks(chunk)
    )
    return folded[0], folded[1]


def conv_norm_gradients(
    sum_a: Tensor, sum_ax: Tensor, var: Tensor, gamma: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(g_mean, g_var, g_gamma, g_beta) from the partial sums of `conv_data_gradient`."""
    groups, partials, channels = sum_a.shape
    var, gamma = var.contiguous(), None if gamma is None else gamma.contiguous()
    g_mean, g_var = var.new_empty((2, groups, channels))
    programs = 1 if groups <= MERGE_GROUPS else groups
    g_gamma, g_beta = var.new_empty((2, programs, channels))
    with device_guard(var):
        if partials > MERGE_PARTIALS:
            sum_a, sum_ax = fold_sums(sum_a, sum_ax, MERGE_CHUNK)
            partials = sum_a.shape[1]
        finish_gradient_kernel[_merge_grid(programs, channels)](
            sum_a, sum_ax, var, gamma, g_mean, g_var, g_gamma, g_beta, eps, groups,
            cdiv(groups, programs), partials, channels, **_merge_blocks(partials),
        )  # fmt: skip
        if programs == 1:
            return g_mean, g_var, g_gamma[0], g_beta[0]
        totals = var.new_empty((2, channels))
        merge_sums[_merge_grid(1, channels)](
            g_gamma, g_beta, None, None, totals[0], totals[1], 1, 1, programs, channels,
            PAIR=True, **_merge_blocks(programs),
        )  # fmt: skip
    return g_mean, g_var, totals[0], totals[1]


def _merge_grid(rows: int, channels: int) -> tuple[int]:
    return (rows * cdiv(channels, MERGE_BLOCK_C),)


def _merge_blocks(partials: int) -> dict[str, int]:
    block_k = min(MERGE_BLOCK_K, max(32, 1 << (partials - 1).bit_length()))
    warps = min(MERGE_WARPS, block_k * MERGE_BLOCK_C // 64)
    return {"BLOCK_K": block_k, "BLOCK_C": MERGE_BLOCK_C, "num_warps": warps}
