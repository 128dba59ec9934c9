"""Convolutions by Triton's kernels for GPUs with TMA (`kernels/conv_block/tma/`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgan.kernels.core.by_shape import by_shape
from fastgan.kernels.core.precision import precision_of
from fastgan.ops.conv import unmeasured
from fastgan.ops.conv.geometry import Geometry
from fastgan.ops.conv.problem import DATA_GRADIENT, FORWARD, WEIGHT_GRADIENT, Problem
from fastgan.ops.conv.run import Epilogue, memory_format
from fastgan.ops.core import dispatch
from fastgan.ops.core.memory_format import channels_last

TIME, prefers, beats_eager = unmeasured.TIME, unmeasured.prefers, unmeasured.beats_eager


def name(p: Problem) -> str:
    return "Triton, TMA"


def supports(p: Problem) -> bool:
    device = torch.device(p.device)
    served = served_geometry(p.x, p.dtype, device, p.weight, p.geometry, p.of == WEIGHT_GRADIENT)
    return p.channels_last and served is not None


def served_geometry(
    x: tuple[int, ...], dtype: torch.dtype, device: torch.device, weight: tuple[int, ...],
    geometry: Geometry, of_weight: bool = False,
) -> Any:  # fmt: skip
    """The kernels' geometry of a convolution of channels-last x, by shapes; None where it does not
    run here. Of float32 that is by the precision that is set for the device at the time.

    Args:
        of_weight: its weight gradient; else forward pass and data gradient.
    """
    precision = precision_of(dtype, device)
    if dtype not in _HALF and precision != "tf32":
        return None
    if dispatch.why_not("triton", device.type, dtype) is not None:
        return None
    plan = dispatch.module("fastgan.kernels.conv_block.tma.plan")
    if not plan.has_tma(device):
        return None
    return _supported(x, dtype, weight, geometry, precision, of_weight)


_HALF = torch.bfloat16, torch.float16


@by_shape
def _supported(
    x: tuple[int, ...], dtype: torch.dtype, weight: tuple[int, ...], geometry: Geometry,
    precision: str, of_weight: bool,
) -> Any:  # fmt: skip
    found = _geometry(x, weight, geometry)
    plan = dispatch.module("fastgan.kernels.conv_block.tma.plan")
    return found if plan.supports(found, dtype, precision, of_weight) else None


def run(p: Problem, a: Tensor, b: Tensor, epilogue: Epilogue) -> Tensor:
    kernels: Any = dispatch.module("fastgan.kernels.conv_block.tma")
    forward: Any = dispatch.module("fastgan.kernels.conv_block.forward")
    geometry = geometry_of(p)
    if p.of == FORWARD:
        act = forward.Activation(epilogue.activation, epilogue.slope)
        y: Tensor = kernels.tma_forward(channels_last(a), b, epilogue.bias, geometry, act, 0)[0]
        return y
    if p.of == DATA_GRADIENT:
        dy = channels_last(a)
        g_x: Tensor = kernels.tma_data_gradient(dy, b, geometry, dy, None, forward.Activation())[0]
        return g_x
    format = memory_format(p, len(p.weight))
    like = torch.empty(p.weight, dtype=p.weight_dtype, device=a.device, memory_format=format)
    x, dy = channels_last(a), channels_last(b)
    g_weight: Tensor = kernels.tma_weight_gradient(x, dy, like, geometry)
    return g_weight


def geometry_of(p: Problem) -> Any:
    """The kernels' geometry of a pass."""
    return _geometry(p.x, p.weight, p.geometry)


@by_shape
def _geometry(x: tuple[int, ...], weight: tuple[int, ...], geometry: Geometry) -> Any:
    kernels = dispatch.module("fastgan.kernels.conv_block.geometry")
    stride, padding, output_padding, transposed = geometry
    return kernels.conv_geometry(
        torch.empty(x, dtype=torch.bfloat16, device="meta"), torch.empty(weight, device="meta"),
        list(stride), list(padding), list(output_padding), transposed,
    )  # fmt: skip
