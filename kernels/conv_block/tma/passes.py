"""Launchers of the memory-bound passes between the products (`norm.py`)."""

import functools
from math import prod
from typing import Any

import torch

from fastgan.kernels.conv_block.forward import Activation
from fastgan.kernels.conv_block.partials import conv_norm_gradients, fold_statistics, fold_sums
from fastgan.kernels.conv_block.tma.norm import norm_gradient_kernel, norm_input_kernel
from fastgan.kernels.core.geometry import MERGE_GROUPS, cdiv, device_guard
from fastgan.kernels.norm_act import update_running_stats_

Tensor = torch.Tensor
Partials = tuple[Tensor, Tensor, Tensor]  # counts, means, M2s: see `new_partials`

# Every program of a pass merges all partials of its channels. Up to so many a segment that is less
# than the pass itself; of more, so many remain after a launch that merges them in chunks.
MERGED, FOLDED = 64, 32
# Values of a tile, and programs: four for each multiprocessor of an H100.
TILE, WARPS, PROGRAMS = 4096, 4, 528


def norm_input(
    x: Tensor,
    statistics: Partials,
    gamma: Tensor | None,
    beta: Tensor | None,
    eps: float,
    act: Activation,
    running: tuple[Tensor, Tensor] | None = None,
    momentum: float = 0.0,
    average: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(z, mean, var, rows): z = act(norm(x)) by the statistics of x, whose partials came with it.

    x (N, C, *spatial) channels-last, C a multiple of 16; statistics in segments that divide N;
    gamma, beta and the running statistics (C,) float32 or None. mean and biased var (segments, C);
    rows (segments, 3, C) as of `conv_rows`, for `tma_data_gradient`. The running statistics are
    moved as by `update_running_stats_`.
    """
    counts, means, m2s = statistics
    segments, partials, channels = means.shape
    if partials > MERGED:
        counts, means, m2s = fold_statistics(counts, means, m2s, segments, cdiv(partials, FOLDED))
    z = torch.empty_like(x)
    mean, var = means.new_empty((2, segments, channels))
    rows = means.new_empty((segments, 3, channels))
    moved = running if segments <= MERGE_GROUPS else None
    grid, arguments = _launch(x.shape, segments, means.shape[1])
    gamma, beta = (None if t is None else t.contiguous() for t in (gamma, beta))
    with device_guard(x):
        norm_input_kernel[grid](
            x, counts, means, m2s, gamma, beta, *(moved or (None, None)), z, mean, var, rows, eps,
            momentum, act.slope, **arguments, AVERAGE=average, ACT=act.kernel_code,
        )  # fmt: skip
    if running is not None and moved is None:
        count = x.numel() // (segments * channels)
        update_running_stats_(*running, mean, var, momentum, count, average)
    return z, mean, var, rows


def norm_gradient_(
    g: Tensor,
    x: Tensor,
    var: Tensor,
    rows: Tensor,
    sum_a: Tensor,
    sum_ax: Tensor,
    eps: float,
    need_affine: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """(g_gamma, g_beta) or Nones; g, the first result of `tma_data_gradient`, becomes the gradient
    of x through the statistics of its batch. rows and var are those of `norm_input`.
    """
    segments, partials, channels = sum_a.shape
    g_gamma = g_beta = None
    if need_affine and segments <= MERGE_GROUPS:
        g_gamma, g_beta = var.new_empty((2, channels))
    with device_guard(x):
        if need_affine and g_gamma is None:
            gradients = conv_norm_gradients(sum_a, sum_ax, var, None, eps)
        if partials > MERGED:
            sum_a, sum_ax = fold_sums(sum_a, sum_ax, cdiv(partials, FOLDED))
        grid, arguments = _launch(x.shape, segments, sum_a.shape[1])
        norm_gradient_kernel[grid](
            g, x, var, rows, sum_a, sum_ax, g_gamma, g_beta, eps, **arguments
        )
    return gradients[2:] if need_affine and g_gamma is None else (g_gamma, g_beta)


@functools.cache
def _launch(
    shape: tuple[int, ...], segments: int, partials: int
) -> tuple[tuple[int], dict[str, Any]]:
    """The grid, and the arguments that both kernels take for it."""
    channels = shape[1]
    length = prod(shape) // (segments * channels)
    block_c = min(64, 1 << (channels - 1).bit_length())
    block_m = TILE // block_c
    tiles, column_tiles = cdiv(length, block_m), cdiv(channels, block_c)
    chunk_tiles = cdiv(tiles, max(1, PROGRAMS // (segments * column_tiles)))
    chunks = cdiv(tiles, chunk_tiles)
    return (segments * chunks * column_tiles,), {
        "segments": segments,
        "units": channels // 16,
        "length": length,
        "partials": partials,
        "chunks": chunks,
        "chunk_tiles": chunk_tiles,
        "column_tiles": column_tiles,
        "BLOCK_M": block_m,
        "BLOCK_C": block_c,
        "BLOCK_K": 32,
        "num_warps": WARPS,
    }
