"""Convolutions by Triton's kernels for GPUs with TMA (`kernels/conv_block/tma/`)."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from fastgan.ops.conv.geometry import Geometry
from fastgan.ops.conv.problem import DATA_GRADIENT, FORWARD, Problem
from fastgan.ops.conv.run import Epilogue, memory_format
from fastgan.ops.core import dispatch
from fastgan.ops.core.tensors import channels_last

TIME = 1.0


def name(p: Problem) -> str:
    return "Triton, TMA"


def supports(p: Problem) -> bool:
    half = p.dtype in (torch.bfloat16, torch.float16)
    if not (half and p.channels_last) or dispatch.why_not("triton", p.device, p.dtype) is not None:
        return False
    plan = import_module("fastgan.kernels.conv_block.tma.plan")
    served: bool = plan.supports(geometry_of(p), p.dtype) and plan.has_tma(torch.device(p.device))
    return served


def prefers(p: Problem) -> bool:
    """Only where Triton is asked for: it has not been measured against the library."""
    return dispatch.setting() == "triton"


def beats_eager(p: Problem, grad_x: bool) -> bool:
    return False


def run(p: Problem, a: Tensor, b: Tensor, epilogue: Epilogue) -> Tensor:
    kernels: Any = import_module("fastgan.kernels.conv_block.tma")
    forward: Any = import_module("fastgan.kernels.conv_block.forward")
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


@cache
def _geometry(x: tuple[int, ...], weight: tuple[int, ...], geometry: Geometry) -> Any:
    kernels = import_module("fastgan.kernels.conv_block.geometry")
    stride, padding, output_padding, transposed = geometry
    return kernels.conv_geometry(
        torch.empty(x, dtype=torch.bfloat16, device="meta"), torch.empty(weight, device="meta"),
        list(stride), list(padding), list(output_padding), transposed,
    )  # fmt: skip
