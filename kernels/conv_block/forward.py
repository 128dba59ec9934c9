"""Triton launchers of direct and transposed convolution with everything that rides along.

No autograd, no broadcasting. Tensors are float32, bfloat16 or float16 in channels-last memory;
rows, biases, statistics and sums are float32. `conv_forward` and `conv_data_gradient` each are one
gather (`gather.py`), preceded by a launch that packs the weight, followed by one (two, where
there are many tiles) that merges the partials.

The weight is packed to (taps, channels in, channels out), in x's dtype and padded with zeros to
whole tiles: torch's layout has the taps innermost, so with its strides no tile could be loaded in
vectors, and float32 master weights would be converted again for each tile of rows. It is packed for
the call, or for as long as `packed.py` keeps it.
"""

from dataclasses import dataclass
from math import gcd, prod
from typing import Any

import torch

from fastgan.kernels.conv_block.gather import conv_kernel
from fastgan.kernels.conv_block.geometry import (
    ConvConfig,
    ConvGeometry,
    common_segments,
    configure,
    device_target,
)
from fastgan.kernels.conv_block.merge import (
    pack_kernel,
    rows_kernel,
)
from fastgan.kernels.conv_block.partials import merge_statistics, new_partials
from fastgan.kernels.conv_block.tiles import IDENTITY
from fastgan.kernels.core.geometry import cdiv, device_guard
from fastgan.kernels.core.packed import kept
from fastgan.kernels.core.precision import precision

Tensor = torch.Tensor


@dataclass(frozen=True)
class Activation:
    """A code (0 leaky_relu, 1 tanh, 2 sigmoid) and slope."""

    code: int = 0
    slope: float = 1.0

    @property
    def kernel_code(self) -> int:
        return IDENTITY if self.code == 0 and self.slope == 1.0 else self.code


def conv_rows(
    norm: tuple[Tensor, Tensor, Tensor | None, Tensor | None, float] | None,
    gradient: tuple[Tensor, Tensor | None, Tensor | None, int] | None,
) -> tuple[Tensor | None, Tensor | None]:
    """Rows (segments, 3, C) of the two prologues, in one launch; None for what is None.

    Args:
        norm: (mean, var, gamma, beta, eps), statistics (segments, C).
        gradient: (y_mean, g_mean, g_var, count), ``count`` values a (segment, channel) of y.
    """
    mean, var, gamma, beta, eps = norm or (None, None, None, None, 0.0)
    y_mean, g_mean, g_var, count = gradient or (None, None, None, 1)
    rows = [None if t is None else t.new_empty((t.shape[0], 3, t.shape[1])) for t in (mean, y_mean)]
    like = mean if mean is not None else y_mean
    if like is None:
        return None, None
    sizes = [(0, 1) if t is None else (t.numel(), t.shape[1]) for t in (mean, y_mean)]
    mean, var, gamma, beta, y_mean, g_mean, g_var = (
        None if t is None else t.contiguous()
        for t in (mean, var, gamma, beta, y_mean, g_mean, g_var)
    )
    block = 256
    with device_guard(like):
        rows_kernel[(cdiv(max(sizes[0][0], sizes[1][0]), block),)](
            mean, var, gamma, beta, rows[0], y_mean, g_mean, g_var, rows[1],
            eps, float(count), *sizes[0], *sizes[1], BLOCK=block, num_warps=4,
        )  # fmt: skip
    return rows[0], rows[1]


@dataclass(frozen=True)
class _Plan:
    """One launch of the gather: its tiles stand in ``segments`` parts of the batch."""

    geo: ConvGeometry
    config: ConvConfig
    precision: str
    segments: int

    @property
    def tiles(self) -> int:
        return self.geo.tiles(self.config, self.segments)

    @property
    def column_tiles(self) -> int:
        return cdiv(self.geo.channels_out, self.config.block_n)

    @property
    def grid(self) -> tuple[int]:
        return (self.segments * self.tiles * self.geo.phases * self.column_tiles,)

    def partials(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tiles = self.tiles * self.geo.phases
        return new_partials(x, self.segments, tiles, self.geo.channels_out)

    def arguments(self) -> dict[str, Any]:
        """What every launch takes, by the kernel's names; launch options included."""
        geo, config = self.geo, self.config
        vec_in, vec_out = gcd(geo.channels_in, 16), gcd(geo.channels_out, 16)
        named: dict[str, Any] = {
            "units_in": geo.channels_in // vec_in,
            "units_out": geo.channels_out // vec_out,
            "images": geo.images // self.segments,
            "tiles": self.tiles,
            "column_tiles": self.column_tiles,
            "TRANSPOSED": geo.transposed,
            "DIMS": geo.dims,
            "VEC_IN": vec_in,
            "VEC_OUT": vec_out,
            "EVEN_K": geo.channels_in % config.block_k == 0,
            "WIDE": geo.wide(config),
            "PRECISION": self.precision,
            "BLOCK_M": config.block_m,
            "BLOCK_N": config.block_n,
            "BLOCK_K": config.block_k,
            "num_warps": config.warps,
            "num_stages": config.stages,
        }
        if config.registers is not None:
            named["maxnreg"] = config.registers
        axes = {"I": geo.size_in, "O": geo.size_out, "P": geo.padding}
        for letter, values in (axes | {"K": geo.kernel, "S": geo.stride}).items():
            named |= {letter + axis: value for axis, value in zip("DHW", values, strict=True)}
        return named


def check_segments(geo: ConvGeometry, *segments: int) -> None:
    for count in segments:
        if count and geo.images % count:
            raise ValueError(f"segments: {count} does not divide the batch of {geo.images}")


def _plan(
    geo: ConvGeometry,
    x: Tensor,
    tensors: int,
    segments: tuple[int, ...],
    config: ConvConfig | None,
    input_precision: str | None,
) -> _Plan:
    """``tensors`` are read for one operand; ``segments`` are the splits that tiles respect."""
    check_segments(geo, *segments)
    input_precision = input_precision or precision(x)
    parts = common_segments(*segments)
    if config is None:
        target = device_target(x.device)
        config = configure(geo, x.dtype, input_precision, tensors, parts, target)
    return _Plan(geo, config, input_precision, parts)


def _pack(weight: Tensor, x: Tensor, plan: _Plan) -> Tensor:
    """The weight as the gather reads it: (taps, channels in, channels out), padded to tiles."""
    geo, config = plan.geo, plan.config
    packed_k = cdiv(geo.channels_in, config.block_k) * config.block_k
    packed_n = plan.column_tiles * config.block_n
    kind = geo.transposed, packed_k, packed_n, x.dtype, plan.precision
    return kept(weight, kind, lambda: _packed(weight, x, plan, packed_k, packed_n))


def _packed(weight: Tensor, x: Tensor, plan: _Plan, packed_k: int, packed_n: int) -> Tensor:
    packed = x.new_empty((plan.geo.taps, packed_k, packed_n))
    axes = (0, 1) if plan.geo.transposed else (1, 0)
    pack_into(packed, weight, axes, plan.config.block_k, plan.config.block_n, plan.precision)
    return packed


def pack_into(
    packed: Tensor,
    weight: Tensor,
    axes: tuple[int, int],
    block_k: int,
    block_n: int,
    input_precision: str,
    taps_first: bool = True,
) -> None:
    """Packs a weight whose ``axes`` are K and N into (taps, K, N), or (K, taps, N), of whole blocks
    of some sizes or of their halves, quarters ...
    """
    kernel = [*[1] * (5 - weight.dim()), *weight.shape[2:]]
    strides = [*[0] * (5 - weight.dim()), *weight.stride()[2:]]
    taps, k, n = prod(kernel), *axes
    packed_k = packed.shape[1 if taps_first else 0]
    block_t = min(64, 1 << (taps - 1).bit_length())
    block_k, block_n = min(block_k, 64 // block_t), min(32, block_n)
    blocks = packed_k // block_k, packed.shape[2] // block_n
    pack_kernel[(blocks[0] * blocks[1], cdiv(taps, block_t))](
        weight, packed, weight.shape[k], weight.shape[n], *blocks, taps,
        weight.stride(k), weight.stride(n), *strides, KH=kernel[1], KW=kernel[2],
        TAPS_FIRST=taps_first, PRECISION=input_precision, BLOCK_T=block_t, BLOCK_K=block_k,
        BLOCK_N=block_n, num_warps=4,
    )  # fmt: skip


def conv_forward(
    x: Tensor,
    rows: Tensor | None,
    pre: Activation,
    weight: Tensor,
    bias: Tensor | None,
    geo: ConvGeometry,
    post: Activation,
    segments: int,
    *,
    config: ConvConfig | None = None,
    input_precision: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(y, mean, var): y = post(conv(pre(norm(x))) + bias), norm by ``rows`` (`conv_rows`) or none.

    mean and biased var of y as stored, (segments, C_out) float32; with segments 0 both are empty.
    Raises ValueError where a number of segments does not divide the batch.
    """
    rows_segments = 1 if rows is None else rows.shape[0]
    plan = _plan(geo, x, 1, (rows_segments, segments), config, input_precision)
    bias = None if bias is None else bias.contiguous()
    y = new_output(x, geo)
    counts = means = m2s = None
    with device_guard(x):
        if segments:
            counts, means, m2s = plan.partials(x)
        if y.numel():
            conv_kernel[plan.grid](
                x, None, rows, _pack(weight, x, plan), bias, y, None, None, counts, means, m2s,
                pre.slope, post.slope, share_in=plan.segments // rows_segments, share_out=1,
                PROLOGUE="input", ACT_IN=pre.kernel_code, EPILOGUE="output",
                ACT_OUT=post.kernel_code, **plan.arguments(),
            )  # fmt: skip
        if counts is None:
            return y, x.new_empty(0, dtype=torch.float32), x.new_empty(0, dtype=torch.float32)
        if y.numel() == 0:
            zeros = x.new_zeros((2, segments, geo.channels_out), dtype=torch.float32)
            return y, zeros[0], zeros[1]
        return y, *merge_statistics(counts, means, m2s, segments)


def conv_data_gradient(
    g: Tensor,
    y: Tensor | None,
    gradient_rows: Tensor | None,
    post: Activation,
    weight: Tensor,
    geo: ConvGeometry,
    x: Tensor,
    rows: Tensor | None,
    pre: Activation,
    *,
    config: ConvConfig | None = None,
    input_precision: str | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """(g_x, partial sums of a, of a * (x - center)) of a forward convolution of geometry ``geo``.

    dy = (g + k1 (y - center) + k2) * post'(y), of ``gradient_rows`` (`conv_rows`) unless None; a =
    dz * pre'(norm(x)), dz the data gradient; g_x = a * scale. Sums (segments of rows, partials,
    C_in), for `conv_norm_gradients`; None where there is no norm. y is None where unused.
    """
    back = geo.reversed()
    reads_y = gradient_rows is not None or post.kernel_code != IDENTITY
    shares = tuple(1 if r is None else r.shape[0] for r in (gradient_rows, rows))
    plan = _plan(back, g, 2 if reads_y else 1, shares, config, input_precision)
    g_x = new_output(g, back)
    first = second = None
    masked = rows is not None or pre.kernel_code != IDENTITY
    with device_guard(g):
        if rows is not None:
            _, first, second = plan.partials(g)
        if g_x.numel():
            conv_kernel[plan.grid](
                g, y if reads_y else None, gradient_rows, _pack(weight, g, plan), None, g_x,
                x if masked else None, rows, None, first, second, post.slope, pre.slope,
                share_in=plan.segments // shares[0], share_out=plan.segments // shares[1],
                PROLOGUE="gradient", ACT_IN=post.kernel_code,
                EPILOGUE="gradient" if masked else "output", ACT_OUT=pre.kernel_code,
                **plan.arguments(),
            )  # fmt: skip
    if first is None or second is None:
        return g_x, None, None
    shape = (shares[1], plan.segments // shares[1] * first.shape[1], back.channels_out)
    return g_x, first.view(shape), second.view(shape)


def new_output(like: Tensor, geo: ConvGeometry) -> Tensor:
    """An unwritten channels-last tensor of a geometry's output."""
    sizes = geo.size_out[3 - geo.dims :]
    return like.new_empty((geo.images, *sizes, geo.channels_out)).movedim(-1, 1)
