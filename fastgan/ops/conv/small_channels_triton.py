"""Convolutions from and to an image of at most four channels by Triton's kernels
(`kernels/small_channels/`)."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from fastgan.ops.conv import unmeasured
from fastgan.ops.conv.problem import FORWARD, WEIGHT_GRADIENT, Problem
from fastgan.ops.conv.run import Epilogue
from fastgan.ops.conv.small_channels import Layer, layer_of
from fastgan.ops.core import dispatch
from fastgan.ops.core.memory_format import channels_last

_MAX_VALUES = 1 << 31  # of an image: places within one are counted in 32 bits

TIME, prefers, beats_eager = unmeasured.TIME, unmeasured.prefers, unmeasured.beats_eager


def name(p: Problem) -> str:
    return "Triton, small-channel"


def supports(p: Problem) -> bool:
    if not p.channels_last or dispatch.why_not("triton", p.device, p.dtype) is not None:
        return False
    return _layer(p) is not None and math.prod((*p.x[1:], *p.y[1:])) < _MAX_VALUES


def _layer(p: Problem) -> Layer | None:
    """Of a weight of any dtype: the kernels round it as they load it."""
    return layer_of(p._replace(weight_dtype=p.dtype))


def run(p: Problem, a: Tensor, b: Tensor, epilogue: Epilogue) -> Tensor:
    kernels: Any = import_module("fastgan.kernels.small_channels")
    forward: Any = import_module("fastgan.kernels.conv_block.forward")
    layer = _layer(p)
    assert layer is not None
    steps = p.geometry.stride, layer.padding
    if p.of == WEIGHT_GRADIENT:
        few, wide = map(channels_last, (a, b) if layer.few_is_x else (b, a))
        like = torch.empty(
            layer.wide, layer.few, *p.kernel, dtype=p.weight_dtype, device=a.device,
            memory_format=torch.channels_last,
        )  # fmt: skip
        gradient: Tensor = kernels.image_weight_gradient(few, wide, like, *steps)
        return gradient.transpose(0, 1).flip(2, 3) if layer.flipped else gradient
    weight = b.transpose(0, 1).flip(2, 3) if layer.flipped else b
    reads_few = (p.of == FORWARD) == layer.few_is_x
    launch = kernels.from_image if reads_few else kernels.to_image
    act = forward.Activation(epilogue.activation, epilogue.slope)
    y: Tensor = launch(channels_last(a), weight, epilogue.bias, *steps, p.result[2:], act)
    return y
