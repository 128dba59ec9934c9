"""Convolution, transposed convolution and their gradients from operands that are there: the second
design of conv_block's products, for GPUs with TMA.

Where the gather (`forward.py`, `weight.py`) forms norm and activation of every element again for
each tap, here z and dy are written once (`form.py`) and the products (`product.py`, `weight.py`)
read them, and the weight as torch lays it out channels-last, by boxes of shared memory: no vector
instruction stands between memory and the matrix unit. Arguments and results are those of the
gather's launchers without their prologues. `plan.serves` says what runs here: of float32 in TF32
the weight gradient does not.
"""

import torch

from fastgan.kernels.conv_block.forward import Activation, check_segments
from fastgan.kernels.conv_block.geometry import (
    ConvConfig,
    ConvGeometry,
    common_segments,
    device_target,
)
from fastgan.kernels.conv_block.partials import merge_statistics
from fastgan.kernels.conv_block.tiles import IDENTITY
from fastgan.kernels.conv_block.tma.form import form_gradient, form_input
from fastgan.kernels.conv_block.tma.passes import NormGradient, NormInput
from fastgan.kernels.conv_block.tma.plan import ProductPlan, product_plan, serves, weight_plan
from fastgan.kernels.conv_block.tma.products import Product, WeightGradient
from fastgan.kernels.core.geometry import device_guard

__all__ = [
    "NormGradient",
    "NormInput",
    "Product",
    "WeightGradient",
    "data_gradient_of",
    "form_gradient",
    "form_input",
    "product_of",
    "serves",
    "tma_data_gradient",
    "tma_forward",
    "tma_weight_gradient",
    "weight_gradient_of",
]

Tensor = torch.Tensor


def product_of(
    geo: ConvGeometry,
    dtype: torch.dtype,
    device: torch.device,
    post: Activation,
    segments: int,
    config: ConvConfig | None = None,
) -> Product:
    """The launcher of y = post(conv(z) + bias) for z of a geometry, and of the partials of the
    statistics of y in some segments, or with 0 without them.
    """
    check_segments(geo, segments)
    target = device_target(device)
    plan = product_plan(geo, max(1, segments), target, config, dtype.itemsize)
    return _product(plan, dtype, device, post, counted=segments > 0)


def data_gradient_of(
    geo: ConvGeometry,
    dtype: torch.dtype,
    device: torch.device,
    pre: Activation,
    segments: int,
    config: ConvConfig | None = None,
) -> Product:
    """The launcher of the data gradient of a forward convolution of a geometry, for a norm before
    it whose statistics are of some segments; 0: there is no norm.
    """
    check_segments(geo, segments)
    back, target = geo.reversed(), device_target(device)
    plan = product_plan(back, common_segments(segments), target, config, dtype.itemsize)
    masked = segments > 0 or pre.kernel_code != IDENTITY
    return _product(plan, dtype, device, pre, masked=masked)


def _product(
    plan: ProductPlan,
    dtype: torch.dtype,
    device: torch.device,
    act: Activation,
    *,
    counted: bool = False,
    masked: bool = False,
) -> Product:
    # One plan serves a convolution's data gradient and the transposed one's forward pass.
    key = dtype, device, act, counted, masked
    return plan.launcher(key, lambda: Product(plan, dtype, act, counted=counted, masked=masked))


def weight_gradient_of(
    geo: ConvGeometry, dtype: torch.dtype, device: torch.device, config: ConvConfig | None = None
) -> WeightGradient:
    plan = weight_plan(geo, device_target(device), config)
    return plan.launcher((dtype, device), lambda: WeightGradient(plan, dtype))


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

    z channels-last, bfloat16, float16 or float32, which is cut off to TF32; weight of any float
    dtype and layout, read as it is where it has z's dtype, of 16 bits, and channels-last memory.
    """
    product = product_of(geo, z.dtype, z.device, post, segments, config)
    bias = None if bias is None else bias.contiguous()
    y, counts, means, m2s = product(z, weight, bias)
    if counts is None or means is None or m2s is None:
        return y, z.new_empty(0, dtype=torch.float32), z.new_empty(0, dtype=torch.float32)
    with device_guard(z):
        return y, *merge_statistics(counts, means, m2s, segments)


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
    segments = 0 if rows is None else rows.shape[0]
    product = data_gradient_of(geo, dy.dtype, dy.device, pre, segments, config)
    g_x, _, sums, centred = product(dy, weight, None, x, rows)
    return g_x, sums, centred


def tma_weight_gradient(
    z: Tensor, dy: Tensor, weight: Tensor, geo: ConvGeometry, *, config: ConvConfig | None = None
) -> Tensor:
    """The gradient of ``weight``, in its dtype and layout; the weight is not read."""
    return weight_gradient_of(geo, z.dtype, z.device, config)(z, dy, weight)
