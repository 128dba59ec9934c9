"""Convolution, transposed convolution and their gradients from operands that are there: the second
design of conv_block's products, for GPUs with TMA.

Where the gather (`forward.py`, `weight.py`) forms norm and activation of every element again for
each tap, here z and dy are written once (`form.py`) and the products (`product.py`, `weight.py`)
read them, and the weight as torch lays it out channels-last, by boxes of shared memory: no vector
instruction stands between memory and the matrix unit. Arguments and results are those of the
gather's launchers without their prologues. `plan.serves` says what runs here.
"""

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
    height, width = work.dense_size[1:]
    flat = plan.boxes.flat(height, width)
    if flat:
        view = _aligned(dense).movedim(1, -1).flatten(0, -2)
        dense = TensorDescriptor.from_tensor(view, [config.block_k, config.block_m])
    else:
        dense = _view(dense, (1, 1), (*plan.boxes.size, config.block_m))
    blocks = plan.blocks
    with device_guard(z):
        tma_weight_kernel[plan.grid](
            dense, _view(gathered, geo.stride[1:], (*plan.boxes.size, config.block_n)), out,
            work.dense_channels // 16, work.channels // 16, plan.boxes.count, plan.length, *blocks,
            height, width, **_axes(geo), FLAT=flat, MASK=plan.masked,
            TILES_H=plan.boxes.tiles[1], TILES_W=plan.boxes.tiles[2], **_box(plan.boxes.size),
            BLOCK_M=config.block_m, BLOCK_N=config.block_n, **_options(config),
        )  # fmt: skip
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
    operands, arguments = _operands(x, weight, plan), _arguments(plan)
    ends = (bias, out, raw, rows, counts, partial0, partial1, act.slope)
    kind = {"EPILOGUE": epilogue, "ACT": act.kernel_code}
    if plan.slices == 1:
        tma_conv_kernel[plan.grid](*operands, *ends, **kind, **arguments)
        return
    config = plan.config
    tiles = x.new_empty((*plan.grid, config.block_m, config.block_n), dtype=torch.float32)
    tma_slice_kernel[plan.grid](*operands, tiles, plan.slice_steps, plan.programs, **arguments)
    columns = min(ADD_COLUMNS, config.block_n)
    for name in ("CHANNELS", "BLOCK_K", "STAGES"):
        del arguments[name]
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
    weight_desc = TensorDescriptor.from_tensor(matrix, list(block[:: -1 if geo.transposed else 1]))
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
    rows = _aligned(x).movedim(1, -1)
    rows = rows.unsqueeze(1) if rows.dim() == 3 else rows
    (_, h, w, _), (sh, sw) = rows.shape, stride
    if h % sh or w % sw:
        rows = torch.nn.functional.pad(rows, (0, 0, 0, -w % sw, 0, -h % sh))
    n, h, w, c = rows.shape
    shape = [n, h // sh, sh, w // sw, sw * c]
    images, height, width, columns = block
    return TensorDescriptor(
        rows, shape, [h * w * c, sh * w * c, w * c, sw * c, 1], [images, height, 1, width, columns]
    )


def _aligned(x: Tensor) -> Tensor:
    """x at an address of whole 16 bytes, which TMA asks for: all that torch allocates are."""
    return x.clone() if x.data_ptr() % 16 else x


def _arguments(plan: ProductPlan) -> dict[str, Any]:
    """What every launch of the product takes, by the kernel's names; launch options included."""
    geo, boxes, config = plan.geo, plan.boxes, plan.config
    return {
        "units_out": geo.channels_out // 16,
        "images": geo.images // plan.segments,
        "OH": geo.size_out[1],
        "OW": geo.size_out[2],
        "tiles_h": boxes.tiles[1],
        "tiles_w": boxes.tiles[2],
        "tiles": boxes.count,
        "column_tiles": plan.column_tiles,
        "TRANSPOSED": geo.transposed,
        "CHANNELS": geo.channels_in,
        "BLOCK_N": config.block_n,
        "BLOCK_K": config.block_k,
        **_axes(geo),
        **_box(boxes.size),
        **_options(config),
    }


def _axes(geo: ConvGeometry) -> dict[str, int]:
    letters = {"K": geo.kernel, "S": geo.stride, "P": geo.padding}
    return {
        k + axis: values[i] for k, values in letters.items() for i, axis in ((1, "H"), (2, "W"))
    }


def _box(size: tuple[int, int, int]) -> dict[str, int]:
    return dict(zip(("BLOCK_I", "BLOCK_H", "BLOCK_W"), size, strict=True))


def _options(config: ConvConfig) -> dict[str, Any]:
    options: dict[str, Any] = {"STAGES": config.stages, "num_warps": config.warps}
    return options if config.registers is None else options | {"maxnreg": config.registers}
