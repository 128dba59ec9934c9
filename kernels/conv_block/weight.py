"""Triton launcher of the weight and bias gradient of a convolution or transposed convolution.

No autograd. x (N, C_in, *spatial), g and y (N, C_out, *spatial) are channels-last, of one dtype:
float32, bfloat16 or float16. With z = act((x - center) * scale + shift) the convolution's input and
dy = (g + k1 * (y - center) + k2) * act'(y) the gradient before bias and activation, both formed as
they are loaded (``tiles.py``):

    g_weight[o, i, j] = sum of dy[o at position q] * z[i at position q * stride - padding + j]
    g_bias[o]         = sum of dy[o]

over images and positions; transposed, dy and z change places. Sums are float32, of operands in the
dtype of x. The sum over positions is cut into slices; a second kernel adds their partial sums in a
fixed order, so that runs repeat bit for bit.

Launches: the product; the sum over slices, unless one slice writes a channels-last weight straight
away; the sum of g_bias, whose partial sums ride along where dy is read position by position: not
transposed. Transposed, or alone, it takes a pass over dy before that.
"""

from math import gcd, prod
from typing import NamedTuple

import torch

from fastgan.kernels.conv_block.forward import Activation
from fastgan.kernels.conv_block.geometry import ConvConfig, ConvGeometry, device_target
from fastgan.kernels.conv_block.tiles import IDENTITY
from fastgan.kernels.conv_block.weight_kernels import bias_kernel, reduce_kernel, weight_kernel
from fastgan.kernels.conv_block.weight_plan import Product, configs, configure, divider, product
from fastgan.kernels.core.geometry import (
    MERGE_BLOCK_K,
    _ceil_pow2,
    cdiv,
    device_guard,
    is_channels_last,
)
from fastgan.kernels.core.precision import precision
from fastgan.kernels.norm_act import merge

__all__ = ["configs", "conv_weight_gradient"]

Tensor = torch.Tensor

PRECISIONS = ("tf32", "ieee")
# Partial sums that a program of the second kernel holds, and slices it adds at a time.
REDUCE_TILE, REDUCE_SLICES, REDUCE_TAPS = 4096, 32, 32
# Tile of the pass for the bias alone, and the tiles of a program.
BIAS_BLOCK_K, BIAS_BLOCK_C, BIAS_TILES = 64, 32, 16


class _Input(NamedTuple):
    """What z is formed of."""

    x: Tensor
    rows: Tensor | None
    act: Activation


class _Gradient(NamedTuple):
    """What dy is formed of; dy is g where y is None."""

    g: Tensor
    y: Tensor | None
    rows: Tensor | None
    act: Activation


def conv_weight_gradient(
    x: Tensor,
    rows: Tensor | None,
    pre: Activation,
    g: Tensor,
    y: Tensor | None,
    gradient_rows: Tensor | None,
    post: Activation,
    weight: Tensor,
    geo: ConvGeometry,
    need_weight: bool,
    need_bias: bool,
    *,
    config: ConvConfig | None = None,
    input_precision: str | None = None,
) -> tuple[Tensor, Tensor]:
    """(g_weight, g_bias) of a forward convolution of geometry ``geo``; what is not needed is empty
    and not computed. g_bias: (C_out,) float32.

    z = pre(norm(x)) by ``rows``, dy of (g, y, ``gradient_rows``, post), both rows (segments, 3, C)
    as of `conv_rows`, or None; y is None where unused. ``weight`` gives shape, dtype and layout
    (channels-last, or else contiguous) and is not read. Raises TypeError for a dtype, ValueError
    for a shape, layout or precision that does not fit.
    """
    input_precision = input_precision or precision(x)
    reads_y = gradient_rows is not None or post.kernel_code != IDENTITY
    _check(geo, {"x": x, "g": g} | ({"y": y} if reads_y else {}), input_precision)
    _check_rows("rows", rows, geo.images, geo.channels_in)
    _check_rows("gradient_rows", gradient_rows, geo.images, geo.channels_out)
    g_weight = weight_like(weight) if need_weight else weight.new_empty(0)
    g_bias = x.new_empty(geo.channels_out if need_bias else 0, dtype=torch.float32)
    if geo.images == 0 or weight.numel() == 0:
        g_weight.zero_()
        need_weight = False
    if geo.images == 0 or geo.channels_out == 0:
        return g_weight, g_bias.zero_()
    work = product(geo, rows, gradient_rows)
    z = _Input(x, work.spread(rows), pre)
    dy = _Gradient(g, y if reads_y else None, work.spread(gradient_rows), post)
    with device_guard(x):
        if need_weight:
            together = need_bias and not geo.transposed
            if config is None:
                config = configure(work, x.dtype, input_precision, device_target(x.device))
            _multiply(work, z, dy, g_weight, g_bias if together else None, config, input_precision)
            need_bias = need_bias and not together
        if need_bias:
            _sum_gradient(work, dy, g_bias)
    return g_weight, g_bias


def _multiply(
    work: Product,
    z: _Input,
    dy: _Gradient,
    g_weight: Tensor,
    g_bias: Tensor | None,
    config: ConvConfig,
    input_precision: str,
) -> None:
    """Fills g_weight, and g_bias if given."""
    geo = work.geo
    row_blocks, column_blocks = work.blocks(config)
    slices, slice_tiles = work.slices(config)
    segment_tiles = work.segment_tiles(config)
    positions = prod(work.dense_size)
    channels_last = is_channels_last(g_weight)
    out, sums = g_weight, None
    if slices > 1 or not channels_last:
        out = z.x.new_empty((slices, work.dense_channels, work.columns), dtype=torch.float32)
    if g_bias is not None:
        sums = z.x.new_empty((slices, work.dense_channels), dtype=torch.float32)
    dense_vec, vec = gcd(work.dense_channels, 16), gcd(work.channels, 16)
    options = {} if config.registers is None else {"maxnreg": config.registers}
    weight_kernel[(row_blocks * column_blocks * slices,)](
        z.x, z.rows, dy.g, dy.y, dy.rows, out, sums, z.act.slope, dy.act.slope,
        work.dense_channels // dense_vec, work.channels // vec, geo.taps,
        *work.dense_size[1:], *work.gathered_size, *geo.kernel[1:], *geo.stride, *geo.padding,
        positions, prod(work.gathered_size), work.segment_images, segment_tiles,
        work.segments * segment_tiles, slice_tiles, *divider(positions),
        *divider(work.dense_size[1]), *divider(work.dense_size[2]), *divider(segment_tiles),
        _step(z.rows), _step(dy.rows), row_blocks, column_blocks,
        TRANSPOSED=geo.transposed, DIMS=geo.dims, ONE_TAP=work.channels % config.block_n == 0,
        WIDE=work.wide(config), PRE_ACT=z.act.kernel_code, ACT=dy.act.kernel_code,
        PRECISION=input_precision, DENSE_VEC=dense_vec, VEC=vec, BLOCK_M=config.block_m,
        BLOCK_N=config.block_n, BLOCK_K=config.block_k, STAGES=config.stages,
        num_warps=config.warps, **options,
    )  # fmt: skip
    if out is not g_weight:
        add_slices(out, g_weight, geo.taps, channels_last)
    if sums is not None and g_bias is not None:
        _add(sums, g_bias)


def add_slices(partial: Tensor, g_weight: Tensor, taps: int, channels_last: bool) -> None:
    """g_weight of its slices (slices, dense channels, taps * channels). A channels-last weight has
    their order: rows of a single tap.
    """
    slices, rows, columns = partial.shape
    taps = 1 if channels_last else taps
    channels = columns // taps
    block_s = min(REDUCE_SLICES, _ceil_pow2(slices))
    block_t = min(REDUCE_TAPS, _ceil_pow2(taps))
    block_c = min(REDUCE_TILE // block_s // block_t, _ceil_pow2(channels))
    vec = gcd(channels, 16)
    tap_blocks, channel_blocks = cdiv(taps, block_t), cdiv(channels, block_c)
    reduce_kernel[(rows * tap_blocks * channel_blocks,)](
        partial, g_weight, slices, rows, taps, channels // vec, tap_blocks, channel_blocks,
        VEC=vec, TAPS_INNER=not channels_last, BLOCK_S=block_s, BLOCK_T=block_t, BLOCK_C=block_c,
        num_warps=4,
    )  # fmt: skip


def _sum_gradient(work: Product, dy: _Gradient, g_bias: Tensor) -> None:
    """g_bias alone, in a pass over dy."""
    channels = g_bias.numel()
    vec = gcd(channels, 16)
    length = work.segment_images * prod(work.geo.size_out)
    chunks = cdiv(length, BIAS_BLOCK_K * BIAS_TILES)
    blocks = cdiv(channels, BIAS_BLOCK_C)
    sums = dy.g.new_empty((work.segments * chunks, channels), dtype=torch.float32)
    bias_kernel[(work.segments * chunks * blocks,)](
        dy.g, dy.y, dy.rows, sums, dy.act.slope, channels // vec, length, chunks, BIAS_TILES,
        _step(dy.rows), blocks, ACT=dy.act.kernel_code, VEC=vec, BLOCK_K=BIAS_BLOCK_K,
        BLOCK_C=BIAS_BLOCK_C, num_warps=4,
    )  # fmt: skip
    _add(sums, g_bias)


def _add(sums: Tensor, total: Tensor) -> None:
    """total (C,) of sums, whose last axis runs over C, a number of times."""
    channels = total.numel()
    partials = sums.numel() // channels
    block = min(MERGE_BLOCK_K, max(32, _ceil_pow2(partials)))
    merge(sums, None, (total, None), (None, None), 1, partials, channels, block)


def _step(rows: Tensor | None) -> int:
    """Rows from one segment's to the next's."""
    return 0 if rows is None or rows.shape[0] == 1 else 1


def weight_like(weight: Tensor) -> Tensor:
    """An unwritten gradient: channels-last where the weight is, else contiguous."""
    dense = weight.is_contiguous() or is_channels_last(weight)
    kept = torch.preserve_format if dense else torch.contiguous_format
    return torch.empty_like(weight, memory_format=kept)


def _check(geo: ConvGeometry, tensors: dict[str, Tensor | None], input_precision: str) -> None:
    if input_precision not in PRECISIONS:
        raise ValueError(f"input_precision: expected one of {PRECISIONS}, got {input_precision!r}")
    x = tensors["x"]
    for name, t in tensors.items():
        if x is None or t is None or t.dtype != x.dtype:
            raise TypeError(
                f"{name}: expected a tensor of x's dtype, got {t if t is None else t.dtype}"
            )
        channels, size = geo.channels_out, geo.size_out
        if name == "x":
            channels, size = geo.channels_in, geo.size_in
        shape = (geo.images, channels, *size[3 - geo.dims :])
        if tuple(t.shape) != shape or not is_channels_last(t):
            raise ValueError(
                f"{name}: expected shape {shape} in channels-last memory, got {tuple(t.shape)} "
                f"with strides {t.stride()}"
            )


def _check_rows(name: str, rows: Tensor | None, images: int, channels: int) -> None:
    if rows is None:
        return
    if rows.dtype != torch.float32:
        raise TypeError(f"{name}: expected float32, got {rows.dtype}")
    fits = rows.dim() == 3 and rows.shape[1:] == (3, channels) and rows.is_contiguous()
    if not fits or rows.shape[0] < 1 or images % rows.shape[0]:
        raise ValueError(
            f"{name}: expected (segments that divide {images} images, 3, {channels}), contiguous, "
            f"got {tuple(rows.shape)} with strides {rows.stride()}"
        )
