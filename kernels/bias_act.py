"""Triton launchers of bias_act: z = act(x + bias), and its backward pass from z.

``x`` and its layouts, activation codes and dtypes are as in norm_act; ``bias`` is (C,) float32.

Bytes moved, T bytes in x:   launches  T read  T written
    forward                      1        1        1
    backward                     1        2        1
    backward with dbias          2        2        1     (one launch where a channel block is small)
"""

import torch
import triton
import triton.language as tl

from fastgan.kernels.core.device import (
    activate,
    activation_grad_from_output,
    channel_of,
    extents,
    split_program,
    tile,
)
from fastgan.kernels.core.geometry import (
    SHAPE_ARGUMENTS,
    TILED,
    Config,
    configs,
    configure,
    device_guard,
    flat,
    geometry,
    plan,
    require_same_layout,
    shipped_configs,
)
from fastgan.kernels.norm_act import merge, merge_block

__all__ = ["bias_act", "bias_act_backward", "configs", "shipped_configs"]

Tensor = torch.Tensor


def bias_act(
    x: Tensor,
    bias: Tensor | None,
    activation: int,
    negative_slope: float,
    *,
    config: Config | None = None,
) -> Tensor:
    """z = act(x + bias), in x's dtype and layout. Without a bias: act(x)."""
    geo = geometry(x)
    z = torch.empty_like(x)
    if x.numel() == 0:
        return z
    geo = flat(x) if bias is None else geo.folded()
    tiled = plan(geo, config or TILED[x.element_size()], "apply")
    with device_guard(x):
        bias_act_kernel[tiled.grid](x, bias, z, negative_slope, ACT=activation, **tiled.arguments)
    return z


def bias_act_backward(
    dz: Tensor,
    z: Tensor,
    activation: int,
    negative_slope: float,
    need_dbias: bool,
    *,
    config: Config | None = None,
) -> tuple[Tensor, Tensor]:
    """(dx, dbias) from the output z; dbias (C,) float32, empty where it is not needed."""
    geo = geometry(z)
    dx = torch.empty_like(z)
    dbias = z.new_empty(geo.channels if need_dbias else 0, dtype=torch.float32)
    if z.numel() == 0:
        return dx, dbias.zero_()
    require_same_layout("dz", dz, "z", z)
    act = {"ACT": activation}
    with device_guard(z):
        if not need_dbias:
            geo = flat(z)
            tiled = plan(geo, config or TILED[z.element_size()], "apply")
            bias_act_backward_kernel[tiled.grid](
                dz, z, dx, None, negative_slope, **act, **tiled.arguments
            )
            return dx, dbias
        config = config or configure(geo, z.element_size(), "backward")
        if config.single:
            whole = plan(geo, config, "whole")
            bias_act_backward_kernel[whole.grid](
                dz, z, dx, dbias, negative_slope, **act, **whole.arguments
            )
            return dx, dbias
        geo = geo.folded()
        tiled = plan(geo, config, "reduce", tensors=2)
        partial = z.new_empty((tiled.chunks, geo.width), dtype=torch.float32)
        bias_act_backward_kernel[tiled.grid](
            dz, z, dx, partial, negative_slope, **act, **tiled.arguments
        )
        merge(
            partial, None, (dbias, None), (None, None),
            1, tiled.chunks * geo.fold, geo.channels, merge_block(tiled),
        )  # fmt: skip
    return dx, dbias


@triton.jit(do_not_specialize=SHAPE_ARGUMENTS)
def bias_act_kernel(
    x_ptr,
    bias_ptr,
    z_ptr,
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
    CHANNELS_LAST: tl.constexpr,
    FOLD: tl.constexpr,
    VEC: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_W: tl.constexpr,
    WIDE: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Reads x once, writes z once."""
    length, width = extents(length, width, units, VEC, CHANNELS_LAST)
    segment, chunk, block = split_program(column_blocks, chunks)
    column0 = block * BLOCK_W
    column = column0 + tl.arange(0, BLOCK_W)
    bias = tl.zeros([BLOCK_W], tl.float32)
    if bias_ptr is not None:
        channel = channel_of(column, width, FOLD)
        bias = tl.load(bias_ptr + channel, column < width, other=0.0)
    first = chunk * tiles_per_chunk
    for t in tl.range(first, tl.minimum(first + tiles_per_chunk, tiles), num_stages=STAGES):
        offsets, mask = tile(
            t, segment, column0, planes, length, width, CHANNELS_LAST, BLOCK_P, BLOCK_L, BLOCK_W,
            WIDE,
        )  # fmt: skip
        x = tl.load(x_ptr + offsets, mask, other=0.0).to(tl.float32)
        z = activate(x + bias[None, :], slope, ACT)
        tl.store(z_ptr + offsets, z.to(z_ptr.dtype.element_ty), mask)


@triton.jit(do_not_specialize=SHAPE_ARGUMENTS)
def bias_act_backward_kernel(
    dz_ptr,
    z_ptr,
    dx_ptr,
    partial_ptr,
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
    CHANNELS_LAST: tl.constexpr,
    FOLD: tl.constexpr,
    VEC: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_W: tl.constexpr,
    WIDE: tl.constexpr,
    STAGES: tl.constexpr,
):
    """dx, and into partial (chunks, width), unless None, its sums over each chunk.

    Reads dz and z once, writes dx once and 4 bytes a column and chunk.
    """
    length, width = extents(length, width, units, VEC, CHANNELS_LAST)
    segment, chunk, block = split_program(column_blocks, chunks)
    column0 = block * BLOCK_W
    column = column0 + tl.arange(0, BLOCK_W)
    acc = tl.zeros([BLOCK_P * BLOCK_L, BLOCK_W], tl.float32)
    first = chunk * tiles_per_chunk
    for t in tl.range(first, tl.minimum(first + tiles_per_chunk, tiles), num_stages=STAGES):
        offsets, mask = tile(
            t, segment, column0, planes, length, width, CHANNELS_LAST, BLOCK_P, BLOCK_L, BLOCK_W,
            WIDE,
        )  # fmt: skip
        z = tl.load(z_ptr + offsets, mask, other=0.0).to(tl.float32)
        dx = tl.load(dz_ptr + offsets, mask, other=0.0).to(tl.float32)
        dx *= activation_grad_from_output(z, slope, ACT)
        tl.store(dx_ptr + offsets, dx.to(dx_ptr.dtype.element_ty), mask)
        if partial_ptr is not None:
            acc += dx
    if partial_ptr is not None:
        tl.store(partial_ptr + chunk * width + column, tl.sum(acc, 0), column < width)
