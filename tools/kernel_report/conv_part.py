"""The launches of the Triton convolutions, for triton_part.py: layers, configurations, targets.

Which configurations there are follows from a target's shared memory and registers, so unlike the
other kernels' launches those of the convolutions are recorded for each target.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from .compare import SHARED

ALL = tuple(SHARED)


@dataclass(frozen=True)
class Layer:
    """A convolution, of DCGAN-64's size unless it says otherwise, compiled for ``targets``."""

    dtype: str
    precision: str = "ieee"
    transposed: bool = False
    shape: tuple[int, ...] = (64, 256, 16, 16)
    channels_out: int = 128
    kernel: int = 4
    stride: int = 2
    padding: int = 1
    # All configurations of the kernels, or only the first; with norm, activations and statistics.
    every: bool = False
    fused: bool = True
    # A float32 weight, as under autocast, in place of one in the layer's dtype.
    wide_weight: bool = False
    targets: tuple[str, ...] = ("sm_90", "gfx942")


# bfloat16 with everything fused is what training runs: each configuration, on each target. For the
# rest, what differs in kind: other types, no prologue, odd channels, 1-D and 3-D.
LAYERS = (
    Layer("bfloat16", every=True, targets=ALL),
    Layer("bfloat16", transposed=True, every=True, targets=ALL),
    Layer("float32", "tf32", every=True, targets=("sm_90",)),
    Layer("float32", "tf32", transposed=True, every=True, targets=("sm_100",)),
    Layer("float32", "ieee", every=True),
    Layer("float16"),
    Layer("bfloat16", wide_weight=True, targets=ALL),
    Layer("bfloat16", transposed=True, wide_weight=True, targets=ALL),
    Layer("bfloat16", fused=False),
    Layer("bfloat16", transposed=True, fused=False),
    Layer("bfloat16", shape=(64, 35, 15, 15), channels_out=77, kernel=5, padding=2, targets=ALL),
    Layer("bfloat16", shape=(64, 3, 64, 64), channels_out=64, targets=ALL),
    Layer("bfloat16", shape=(16, 64, 1024), channels_out=128, kernel=41, stride=4, padding=20),
    Layer("bfloat16", shape=(4, 64, 16, 16, 16), transposed=True),
)


# The products by TMA: the layers of DCGAN-64 that are matrix products, as they are run at a small
# and a large batch on Hopper, each configuration on each target, and other kernels and types.
TMA_TARGETS = ("sm_90", "sm_100", "sm_120")
_D64 = [
    Layer("bfloat16", shape=(batch, channels, side, side), channels_out=2 * channels)
    for batch in (128, 1024)
    for channels, side in ((64, 32), (128, 16), (256, 8))
]
_G64 = [
    Layer("bfloat16", transposed=True, shape=(batch, channels, side, side),
          channels_out=channels // 2)
    for batch in (128, 1024)
    for channels, side in ((512, 4), (256, 8), (128, 16))
]  # fmt: skip
TMA_LAYERS = (
    *(replace(layer, targets=("sm_90",)) for layer in _D64 + _G64),
    Layer("bfloat16", every=True, shape=(128, 128, 16, 16), targets=TMA_TARGETS),
    Layer("bfloat16", transposed=True, fused=False, targets=("sm_90",)),
    Layer("float16", kernel=3, stride=1, wide_weight=True, targets=("sm_90",)),
    Layer("bfloat16", shape=(64, 128, 15, 15), kernel=5, padding=2, targets=("sm_90",)),
    Layer("bfloat16", kernel=3, padding=0, shape=(64, 128, 16, 16), targets=("sm_90",)),
    Layer("bfloat16", shape=(4, 256, 8, 8), channels_out=512, targets=TMA_TARGETS),
    *(
        replace(layer, dtype="float32", precision="tf32", targets=("sm_90",))
        for layer in _D64 + _G64
        if layer.shape[0] == 128
    ),
    Layer("float32", "tf32", every=True, shape=(128, 128, 16, 16), targets=TMA_TARGETS),
    Layer("float32", "tf32", shape=(4, 256, 8, 8), channels_out=512, targets=("sm_90",)),
)
# Convolutions from and to an image of few channels: DCGAN-64's at a batch of 128, in every
# arithmetic, a kernel of other taps, and a weight in float32.
SMALL_CHANNEL_LAYERS = (
    Layer("bfloat16", shape=(128, 3, 64, 64), channels_out=64, wide_weight=True, targets=ALL),
    Layer("float16", shape=(128, 3, 64, 64), channels_out=64, targets=("sm_90",)),
    Layer("float32", "tf32", shape=(128, 3, 64, 64), channels_out=64, targets=ALL[:-1]),
    Layer("float32", shape=(128, 3, 64, 64), channels_out=64, targets=ALL),
    Layer("bfloat16", shape=(16, 1, 28, 28), channels_out=64, kernel=7, stride=1, padding=3),
)


def is_matrix(kernel: str, variant: str, nvidia: bool) -> bool:
    """Whether a kernel is meant for tensor cores: NVIDIA's know no ieee float32."""
    plain = variant.startswith("fp32 ") and "PRECISION=ieee" in variant
    products = ("conv_kernel", "weight_kernel", *SMALL_CHANNELS, *LEAN)
    return kernel in products and not (nvidia and plain)


# Kernels whose loop is to issue no longer than the matrix unit multiplies.
LEAN = ("tma_conv_kernel", "tma_slice_kernel", "tma_weight_kernel")


SMALL_CHANNELS = ("from_image_kernel", "to_image_kernel", "image_weight_kernel")


def is_lean(kernel: str, variant: str) -> bool:
    """But for the masked kind of the weight gradient, whose operands go through registers."""
    return kernel in LEAN and "MASK=1" not in variant


def run(target: str) -> None:
    """Launches every layer of a target, on meta tensors."""
    for layer in LAYERS:
        if target in layer.targets:
            _gather(layer, _limits(target))
            _weight(layer, _limits(target))
    for layer in SMALL_CHANNEL_LAYERS:
        if target in layer.targets:
            _small_channels(layer)
    if target in TMA_TARGETS:
        for layer in TMA_LAYERS:
            if target in layer.targets:
                _tma(layer, _limits(target))


def _limits(target: str) -> Any:
    geometry: Any = importlib.import_module("fastgan.kernels.conv_block.geometry")
    blackwell = target in ("sm_100", "sm_120")
    return geometry.Target(SHARED[target], geometry.BLACKWELL_REGISTERS if blackwell else None)


def _some(layer: Layer, configs: list[Any]) -> Iterator[Any]:
    yield from configs if layer.every else configs[:1]


def _tensors(layer: Layer) -> tuple[Any, Any, Any]:
    """x, the weight and the geometry."""
    import torch

    geometry: Any = importlib.import_module("fastgan.kernels.conv_block.geometry")
    dtype = getattr(torch, layer.dtype)
    n, c_in, *spatial = layer.shape
    x = torch.empty((n, *spatial, c_in), dtype=dtype, device="meta").movedim(-1, 1)
    ends = (c_in, layer.channels_out) if layer.transposed else (layer.channels_out, c_in)
    weight = torch.empty(*ends, *[layer.kernel] * len(spatial), dtype=dtype, device="meta")
    weight = weight.float() if layer.wide_weight else weight
    lists = ([n] * len(spatial) for n in (layer.stride, layer.padding, 0))
    return x, weight, geometry.conv_geometry(x, weight, *lists, layer.transposed)


def _gather(layer: Layer, limits: Any) -> None:
    """Forward pass and data gradient."""
    kernels: Any = importlib.import_module("fastgan.kernels.conv_block.forward")
    geometry: Any = importlib.import_module("fastgan.kernels.conv_block.geometry")
    x, weight, geo = _tensors(layer)
    narrow = geo.narrow(x.element_size())
    act = kernels.Activation(0, 0.2 if layer.fused else 1.0)
    bias = x.new_empty(geo.channels_out, dtype=weight.dtype).float()
    rows, dy_rows = _rows(layer, geo, bias)
    for config in _some(layer, geometry.configs(x.dtype, layer.precision, 1, limits, narrow)):
        y, *_ = kernels.conv_forward(
            x, rows, act, weight, None if layer.fused else bias, geo, act, int(layer.fused),
            config=config, input_precision=layer.precision,
        )  # fmt: skip
    tensors = 2 if layer.fused else 1
    for config in _some(layer, geometry.configs(x.dtype, layer.precision, tensors, limits, narrow)):
        _, sum_a, sum_ax = kernels.conv_data_gradient(
            y, y, dy_rows, act, weight, geo, x, rows, act,
            config=config, input_precision=layer.precision,
        )  # fmt: skip
    if layer.fused:
        var = bias.new_empty(1, geo.channels_in)
        partials: Any = importlib.import_module("fastgan.kernels.conv_block.partials")
        partials.conv_norm_gradients(sum_a, sum_ax, var, var[0], 1e-5)


def _weight(layer: Layer, limits: Any) -> None:
    """Weight and bias gradient."""
    kernels: Any = importlib.import_module("fastgan.kernels.conv_block.weight")
    gather: Any = importlib.import_module("fastgan.kernels.conv_block.forward")
    x, weight, geo = _tensors(layer)
    act = gather.Activation(0, 0.2 if layer.fused else 1.0)
    bias = x.new_empty(geo.channels_out, dtype=weight.dtype).float()
    rows, dy_rows = _rows(layer, geo, bias)
    size = geo.size_out[3 - geo.dims :]
    y = x.new_empty((geo.images, *size, geo.channels_out)).movedim(-1, 1)
    chosen = kernels.configure(
        kernels.product(geo, rows, dy_rows), x.dtype, layer.precision, limits
    )
    for config in kernels.configs(x.dtype, layer.precision, limits) if layer.every else [chosen]:
        kernels.conv_weight_gradient(
            x, rows, act, y, y, dy_rows, act, weight, geo, True, True,
            config=config, input_precision=layer.precision,
        )  # fmt: skip


def _tma(layer: Layer, limits: Any) -> None:
    """Forward pass and both gradients by TMA, in all configurations or as planned; of TF32 the
    weight gradient by the gather.
    """
    kernels: Any = importlib.import_module("fastgan.kernels.conv_block.tma")
    plan: Any = importlib.import_module("fastgan.kernels.conv_block.tma.plan")
    gather: Any = importlib.import_module("fastgan.kernels.conv_block.forward")
    x, weight, geo = _tensors(layer)
    back = geo.reversed()
    act = gather.Activation(0, 0.2 if layer.fused else 1.0)
    bias = x.new_empty(geo.channels_out).float()
    rows, dy_rows = _rows(layer, geo, bias)
    z = kernels.form_input(x, rows, act, layer.precision)
    size = x.element_size()

    def configs(planned: Any, listed: list[Any]) -> list[Any]:
        if getattr(planned, "slices", 1) > 1 and not hasattr(planned, "work"):
            return [None]
        return listed if layer.every else [planned.config]

    for config in configs(
        plan.product_plan(geo, 1, limits, itemsize=size),
        plan.product_configs(geo.channels_in, limits, size),
    ):
        y, *_ = kernels.tma_forward(
            z, weight, None if layer.fused else bias, geo, act, int(layer.fused), config=config
        )
    dy = kernels.form_gradient(y, y, dy_rows, act, layer.precision)
    for config in configs(
        plan.product_plan(back, 1, limits, itemsize=size),
        plan.product_configs(geo.channels_out, limits, size),
    ):
        g_x, *sums = kernels.tma_data_gradient(dy, weight, geo, x, rows, act, config=config)
    if layer.fused:
        _passes(kernels, x, g_x, rows, sums, act, layer.precision)
    if layer.precision == "tf32":
        _gathered_weight(layer, x, rows, dy, weight, geo, limits)
        return
    for config in configs(plan.weight_plan(geo, limits), plan.weight_configs(limits)):
        kernels.tma_weight_gradient(z, dy, weight, geo, config=config)


def _gathered_weight(
    layer: Layer, x: Any, rows: Any, dy: Any, weight: Any, geo: Any, limits: Any
) -> None:
    """The weight gradient of a dy that is formed, of an x that is not."""
    kernels: Any = importlib.import_module("fastgan.kernels.conv_block.weight")
    work = kernels.product(geo, rows, None)
    act, none = kernels.Activation(0, 0.2), kernels.Activation()
    kernels.conv_weight_gradient(
        x, rows, act, dy, None, None, none, weight, geo, True, False,
        config=kernels.configure(work, x.dtype, layer.precision, limits),
        input_precision=layer.precision,
    )  # fmt: skip


def _small_channels(layer: Layer) -> None:
    """From and to the image, and the weight gradient, with what DCGAN has after each."""
    kernels: Any = importlib.import_module("fastgan.kernels.small_channels")
    gather: Any = importlib.import_module("fastgan.kernels.conv_block.forward")
    image, weight, geo = _tensors(layer)
    steps, size = (geo.stride[1:], geo.padding[1:]), geo.size_out[1:]
    precision = {"input_precision": layer.precision}
    leaky, tanh = gather.Activation(0, 0.2), gather.Activation(1)
    wide = kernels.from_image(image, weight, None, *steps, size, leaky, **precision)
    for act in (tanh, gather.Activation()):
        kernels.to_image(wide, weight, None, *steps, image.shape[2:], act, **precision)
    kernels.image_weight_gradient(image, wide, weight, *steps, **precision)
    reduction: Any = importlib.import_module("fastgan.kernels.small_channels.one_output")
    rows = image.new_empty(128, 8192)
    for down, bias in ((False, rows.new_empty(1).float()), (False, None), (True, None)):
        reduction.weighted_sum(rows, rows[0], bias, down, weight.dtype)


def _passes(
    kernels: Any, x: Any, g_x: Any, rows: Any, sums: list[Any], act: Any, precision: str
) -> None:
    """The passes between the products, of batch statistics that came with x."""
    channels = x.shape[1]
    pieces = rows.new_empty(1, 64), *rows.new_empty(2, 1, 64, channels)
    affine = rows.new_empty(channels)
    for average in (False, True):
        running = affine, affine
        norm = kernels.NormInput(x.shape, *pieces[0].shape, 1e-5, act, average, precision)
        norm(x, pieces, affine, affine, running, 0.1)
    for need_affine in (False, True):
        gradient = kernels.NormGradient(x.shape, *sums[0].shape[:2], 1e-5)
        gradient(g_x, x, rows[:, 0], rows, *sums, need_affine)


def _rows(layer: Layer, geo: Any, like: Any) -> tuple[Any, Any]:
    """Rows of both prologues."""
    if not layer.fused:
        return None, None
    kernels: Any = importlib.import_module("fastgan.kernels.conv_block.forward")
    mean_x, mean_y = (like.new_empty(1, c) for c in (geo.channels_in, geo.channels_out))
    norm = (mean_x, mean_x, mean_x[0], mean_x[0], 1e-5)
    rows, dy_rows = kernels.conv_rows(norm, (mean_y, mean_y, mean_y, 1))
    return rows, dy_rows
