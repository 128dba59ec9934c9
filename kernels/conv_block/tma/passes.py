"""Launchers of the memory-bound passes between the products (`norm.py`)."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch

from fastgan.kernels.conv_block.forward import Activation
from fastgan.kernels.conv_block.partials import conv_norm_gradients, fold_statistics, fold_sums
from fastgan.kernels.conv_block.tma.norm import norm_gradient_kernel, norm_input_kernel
from fastgan.kernels.core.by_shape import by_shape
from fastgan.kernels.core.geometry import MERGE_GROUPS, cdiv, device_guard
from fastgan.kernels.core.launch import Launch
from fastgan.kernels.core.outputs import Layouts, channels_last, contiguous, made
from fastgan.kernels.norm_act import update_running_stats_

Tensor = torch.Tensor
Partials = tuple[Tensor, Tensor, Tensor]  # counts, means, M2s: see `new_partials`

# Every program of a pass merges all partials of its channels. Up to so many a segment that is less
# than the pass itself; of more, so many remain after a launch that merges them in chunks.
MERGED, FOLDED = 64, 32
# Values of a tile, and programs: four for each multiprocessor of an H100.
TILE, WARPS, PROGRAMS = 4096, 4, 528
# Of a thread that rounds to TF32: left to itself the assembler spills one or two of them.
REGISTERS = 255


class NormInput:
    """The launcher of z = act(norm(x)) by the statistics of x, whose partials came with it.

    Attributes:
        outputs: what it writes and a call gives: z, mean, var, rows.

    Args:
        shape: of x (N, C, *spatial), C a multiple of 16.
        segments, partials: of the statistics; segments divide N.
        average: as of `update_running_stats_`.
        input_precision: of the product that reads z, as of `form_input`.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        segments: int,
        partials: int,
        eps: float,
        act: Activation,
        average: bool = False,
        input_precision: str = "ieee",
    ) -> None:
        channels = shape[1]
        self._segments, self._average = segments, average
        self._chunk = cdiv(partials, FOLDED) if partials > MERGED else 0
        self._count = prod(shape) // (segments * channels)
        moments = contiguous(segments, channels)
        rows = contiguous(segments, 3, channels)
        self.outputs: Layouts = channels_last(*shape), (moments, moments, rows)
        self._apart = segments > MERGE_GROUPS  # the running statistics take a launch of their own
        self._scalars = eps, act.slope
        partials = cdiv(partials, self._chunk) if self._chunk else partials
        grid, arguments = _launch(tuple(shape), segments, partials)
        named = {**arguments, "AVERAGE": average, "ACT": act.kernel_code}
        named["PRECISION"] = input_precision
        if input_precision == "tf32":
            named["maxnreg"] = REGISTERS
        # Of x, gamma, beta and the running statistics.
        self._launch = Launch(norm_input_kernel, grid, named, varying=(0, 4, 5, 6, 7))

    def __call__(
        self,
        x: Tensor,
        statistics: Partials,
        gamma: Tensor | None,
        beta: Tensor | None,
        running: tuple[Tensor, Tensor] | None = None,
        momentum: float = 0.0,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(z, mean, var, rows): mean and biased var (segments, C); rows (segments, 3, C) as of
        `conv_rows`, for the data gradient.

        x channels-last; gamma, beta and the running statistics (C,) float32, contiguous, or None.
        The latter are moved as by `update_running_stats_`.
        """
        out = made(self.outputs, x)
        with device_guard(x):
            self.into(out, x, statistics, gamma, beta, running, momentum)
        z, mean, var, rows = out
        return z, mean, var, rows

    def into(
        self,
        out: Sequence[Tensor],
        x: Tensor,
        statistics: Partials,
        gamma: Tensor | None,
        beta: Tensor | None,
        running: tuple[Tensor, Tensor] | None,
        momentum: float,
    ) -> None:
        """As a call, into tensors that are there, x's device being current."""
        counts, means, m2s = statistics
        if self._chunk:
            counts, means, m2s = fold_statistics(counts, means, m2s, self._segments, self._chunk)
        moved = _NONE if running is None or self._apart else running
        eps, slope = self._scalars
        self._launch(x, counts, means, m2s, gamma, beta, *moved, *out, eps, momentum, slope)
        if running is not None and self._apart:
            _, mean, var, _ = out
            update_running_stats_(*running, mean, var, momentum, self._count, self._average)


_NONE = None, None


class NormGradient:
    """The launcher of the gradient through the statistics of a batch, of `NormInput`.

    Attributes:
        outputs: what it writes where the gradients of gamma and beta are asked for: these, unless
            a launch of their own makes them.
    """

    def __init__(self, shape: tuple[int, ...], segments: int, partials: int, eps: float) -> None:
        self._eps = eps
        self._apart = segments > MERGE_GROUPS  # those of gamma and beta take a launch of their own
        self.outputs: Layouts = () if self._apart else (contiguous(shape[1]),) * 2
        self._chunk = cdiv(partials, FOLDED) if partials > MERGED else 0
        partials = cdiv(partials, self._chunk) if self._chunk else partials
        grid, arguments = _launch(tuple(shape), segments, partials)
        # Of x, and whether the gradient of gamma is asked for.
        self._launch = Launch(norm_gradient_kernel, grid, arguments, varying=(1, 6))

    def __call__(
        self,
        g: Tensor,
        x: Tensor,
        var: Tensor,
        rows: Tensor,
        sum_a: Tensor,
        sum_ax: Tensor,
        need_affine: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        """(g_gamma, g_beta) or Nones; g, the first result of the data gradient, becomes the
        gradient of x. rows and var are those of `NormInput`, the sums the data gradient's.
        """
        out = made(self.outputs, x) if need_affine else ()
        with device_guard(x):
            return self.into(out, g, x, var, rows, sum_a, sum_ax, need_affine)

    def into(
        self,
        out: Sequence[Tensor],
        g: Tensor,
        x: Tensor,
        var: Tensor,
        rows: Tensor,
        sum_a: Tensor,
        sum_ax: Tensor,
        need_affine: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        """As a call, into tensors that are there, x's device being current."""
        g_gamma = g_beta = None
        if need_affine and self._apart:
            gradients = conv_norm_gradients(sum_a, sum_ax, var, None, self._eps)
        elif need_affine:
            g_gamma, g_beta = out
        if self._chunk:
            sum_a, sum_ax = fold_sums(sum_a, sum_ax, self._chunk)
        self._launch(g, x, var, rows, sum_a, sum_ax, g_gamma, g_beta, self._eps)
        return gradients[2:] if need_affine and self._apart else (g_gamma, g_beta)


@by_shape
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
