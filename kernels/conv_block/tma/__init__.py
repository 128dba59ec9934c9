"""Convolution, transposed convolution and their gradients from operands that are there: the second
design of conv_block's products, for GPUs with TMA.

Where the gather (`forward.py`, `weight.py`) forms norm and activation of every element again for
each tap, here z and dy are written once (`form.py`) and the products (`product.py`, `weight.py`)
read them, and the weight as torch lays it out channels-last, by boxes of shared memory: no vector
instruction stands between memory and the matrix unit. Arguments and results are those of the
gather's launchers without their prologues. `plan.serves` says what runs here.
"""

import functools
from typing import Any

import torch
from triton.tools.tensor_descriptor import TensorDescriptor

from fastgan.kernels.conv_block.forward import (
    Activation,
    check_segments,
    new_output,
)
from fastgan.kernels.conv_block.geometry import (
    ConvConfig,
    ConvGeometry,
    common_segments,
    device_target,
)
from fastgan.kernels.conv_block.partials import merge_statistics, new_partials
from fastgan.kernels.conv_block.tiles import IDENTITY
from fastgan.kernels.conv_block.tma.form import form_gradient, form_input
from fastgan.kernels.conv_block.tma.passes import Partials, norm_gradient_, norm_input
from fastgan.kernels.conv_block.tma.plan import (
    ProductPlan,
    product_plan,
    serves,
    weight_plan,
)
from fastgan.kernels.conv_block.tma.product import tma_conv_kernel
from fastgan.kernels.conv_block.tma.split import tma_add_slices_kernel, tma_slice_kernel
from fastgan.kernels.conv_block.tma.weight import tma_weight_kernel
from fastgan.kernels.conv_block.weight import add_slices, weight_like
from fastgan.kernels.core.geometry import device_guard, is_channels_last
from fastgan.kernels.core.packed import kept

__all__ = [
    "form_gradient",
    "form_input",
    "norm_gradient_",
    "norm_input",
    "serves",
    "tma_convolve",
    "tma_data_gradient",
    "tma_forward",
    "tma_weight_gradient",
]

Tensor = torch.Tensor

# Channels of a tile that a program adds up the slices of, and its warps.
ADD_COLUMNS, ADD_WARPS = 32, 4


def tma_forward(
    z: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geo: ConvGeometry,
    post: Activation,
    segments: int,
    *,
    config: ConvConfig | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(y, mean, var): y = post(conv(z) + bias), as `conv_forward` without a prologue.

    z channels-last, bfloat16 or float16; weight of any float dtype and layout, read as it is where
    it has z's dtype and channels-last memory.
    """
    y, statistics = tma_convolve(z, weight, bias, geo, post, segments, config=config)
    if statistics is None:
        return y, z.new_empty(0, dtype=torch.float32), z.new_empty(0, dtype=torch.float32)
    with device_guard(z):
        return y, *merge_statistics(*statistics, segments)


def tma_convolve(
    z: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geo: ConvGeometry,
    post: Activation,
    segments: int,
    *,
    config: ConvConfig | None = None,
) -> tuple[Tensor, Partials | None]:
    """`tma_forward` that leaves the partials of the statistics to who reads them (`norm_input`)."""
    check_segments(geo, segments)
    plan = product_plan(geo, max(1, segments), device_target(z.device), config)
    y = new_output(z, geo)
    statistics = new_partials(z, segments, plan.tiles, geo.channels_out) if segments else None
    with device_guard(z):
        _multiply(
            plan, z, weight, None if bias is None else bias.contiguous(), y, None, None,
            *(statistics or (None, None, None)), post, "output",
        )  # fmt: skip
    return y, statistics


def tma_data_gradient(
    dy: Tensor,
    weight: Tensor,
    geo: ConvGeometry,
    x: Tensor,
    rows: Tensor | None,
    pre: Activation,
    *,
    config: ConvConfig | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """(g_x, partial sums of a, of a * (x - center)), as `conv_data_gradient` of a formed dy."""
    back = geo.reversed()
    segments = 1 if rows is None else rows.shape[0]
    check_segments(geo, segments)
    plan = product_plan(back, common_segments(segments), device_target(dy.device), config)
    g_x = new_output(dy, back)
    sums = centred = None
    if rows is not None:
        _, sums, centred = new_partials(dy, segments, plan.tiles, back.channels_out)
    masked = rows is not None or pre.kernel_code != IDENTITY
    with device_guard(dy):
        _multiply(
            plan, dy, weight, None, g_x, x if masked else None, rows, None, sums, centred, pre,
            "gradient" if masked else "output",
        )  # fmt: skip
    return g_x, sums, centred


def tma_weight_gradient(
    z: Tensor, dy: Tensor, weight: Tensor, geo: ConvGeometry, *, config: ConvConfig | None = None
) -> Tensor:
    """The gradient of ``weight``, in its dtype and layout; the weight is not read."""
    plan = weight_plan(geo, device_target(z.device), config)
    work, config = plan.work, plan.config
    g_weight = weight_like(weight)
    channels_last = is_channels_last(g_weight)
    out = g_weight
    if plan.slices > 1 or not channels_last:
        shape = (plan.slices, work.dense_channels, work.columns)
        out = z.new_empty(shape, dtype=torch.float32)
    dense, gathered = (z, dy) if geo.transposed else (dy, z)
    if plan.flat:
        positions, channels = dense.numel() // work.dense_channels, work.dense_channels
        box = config.block_k, config.block_m
        dense_desc = _described(_aligned(dense), (positions, channels), (channels, 1), box)
    else:
        dense_desc = _view(dense, (1, 1), (*plan.boxes.size, config.block_m))
    gathered_desc = _view(gathered, geo.stride[1:], (*plan.boxes.size, config.block_n))
    with device_guard(z):
        tma_weight_kernel[plan.grid](dense_desc, gathered_desc, out, **plan.arguments)
        if out is not g_weight:
            add_slices(out, g_weight, geo.taps, channels_last)
    return g_weight


def _multiply(
    plan: ProductPlan,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    out: Tensor,
    raw: Tensor | None,
    rows: Tensor | None,
    counts: Tensor | None,
    partial0: Tensor | None,
    partial1: Tensor | None,
    act: Activation,
    epilogue: str,
) -> None:
    """Launches the product, and what adds its slices if there are several."""
    operands, arguments = _operands(x, weight, plan), plan.arguments
    ends = (bias, out, raw, rows, counts, partial0, partial1, act.slope)
    kind = {"EPILOGUE": epilogue, "ACT": act.kernel_code}
    if plan.slices == 1:
        tma_conv_kernel[plan.grid](*operands, *ends, **kind, **arguments)
        return
    config = plan.config
    tiles = x.new_empty((*plan.grid, config.block_m, config.block_n), dtype=torch.float32)
    tma_slice_kernel[plan.grid](*operands, tiles, plan.slice_steps, plan.programs, **arguments)
    columns = min(ADD_COLUMNS, config.block_n)
    of_product = ("CHANNELS", "BLOCK_K", "STAGES")
    arguments = {k: v for k, v in arguments.items() if k not in of_product}
    arguments["num_warps"] = ADD_WARPS
    tma_add_slices_kernel[(plan.programs * config.block_n // columns,)](
        tiles, *ends, plan.slices, plan.programs, COLUMNS=columns, **kind, **arguments
    )


def _operands(x: Tensor, weight: Tensor, plan: ProductPlan) -> tuple[Any, Any]:
    """Descriptors of x and of the weight as a matrix."""
    geo, config = plan.geo, plan.config
    stride = (1, 1) if geo.transposed else geo.stride[1:]
    block = config.block_n, config.block_k
    matrix = _matrix(weight, x.dtype)
    box = block[::-1] if geo.transposed else block
    weight_desc = _described(matrix, matrix.shape, (matrix.shape[1], 1), box)
    return _view(x, stride, (*plan.boxes.size, config.block_k)), weight_desc


def _matrix(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight (A, B, *kernel) as (A, taps * B): its own memory, or a copy (see `kept`)."""
    last = weight.detach().movedim(1, -1)

    def copied() -> Tensor:
        return torch.empty(last.shape, dtype=dtype, device=last.device).copy_(last)

    if weight.dtype != dtype or not last.is_contiguous() or weight.data_ptr() % 16:
        return kept(weight, ("matrix", dtype), copied).flatten(1)
    return last.flatten(1)


def _view(x: Tensor, stride: tuple[int, ...], block: tuple[int, int, int, int]) -> Any:
    """A descriptor of channels-last x as (images, H / SH, SH, W / SW, SW * C), in boxes of
    (images, height, 1, width, columns). Sizes that strides do not divide are filled up with zeros,
    in a copy.
    """
    x = _aligned(x)
    (n, c, *rows, w), (sh, sw) = x.shape, stride
    h = rows[0] if rows else 1
    if h % sh or w % sw:
        padded = (0, 0, 0, -w % sw, 0, -h % sh)[: 2 * x.dim() - 2]
        x = torch.nn.functional.pad(x.movedim(1, -1), padded).movedim(-1, 1)
        h, w = h + -h % sh, w + -w % sw
    images, height, width, columns = block
    return _described(
        x, (n, h // sh, sh, w // sw, sw * c), (h * w * c, sh * w * c, w * c, sw * c, 1),
        (images, height, 1, width, columns),
    )  # fmt: skip


def _described(
    base: Tensor, shape: tuple[int, ...], strides: tuple[int, ...], box: tuple[int, ...]
) -> Any:
    """A descriptor of memory at an address of whole 16 bytes."""
    found = object.__new__(TensorDescriptor)
    found.__dict__.update(_checked(base.dtype, shape, strides, box).__dict__, base=base)
    return found


@functools.cache
def _checked(
    dtype: torch.dtype, shape: tuple[int, ...], strides: tuple[int, ...], box: tuple[int, ...]
) -> Any:
    """A descriptor of nothing: Triton's checks of sizes, made once, take as long as a launch."""
    nothing = torch.empty(0, dtype=dtype, device="cpu")
    return TensorDescriptor(nothing, list(shape), list(strides), list(box))


def _aligned(x: Tensor) -> Tensor:
    """x at an address of whole 16 bytes, which TMA asks for: all that torch allocates are."""
    return x.clone() if x.data_ptr() % 16 else x
