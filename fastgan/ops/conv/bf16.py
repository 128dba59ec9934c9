"""Convolutions of bfloat16 by AMX or AVX512-BF16 (TDPBF16PS, VDPBF16PS), on CPUs.

Products are of bfloat16, sums float32 (csrc/cpu/conv/bf16/kernel.h). A float32 weight is rounded as
it is packed, and its gradient is float32.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from fastgan.ops.conv.problem import WEIGHT_GRADIENT, Problem
from fastgan.ops.conv.run import by_role, laid_out
from fastgan.ops.core import native, processor

_CHANNELS = 16  # channels come in multiples of it
_CHANNELS_AMX = 32  # the same, where a matrix unit is to run all passes
_MIN_CHANNELS = 64
_SHORT_ROW = 4  # columns of the map, up to which oneDNN's tiles are too short
_SHORT_ROW_AMX = 8  # the same beside a matrix unit


TIME = 0.6


def name(p: Problem) -> str:
    return "AMX" if by_amx() else "AVX512-BF16"


def supports(p: Problem) -> bool:
    return (
        p.device == "cpu"
        and p.dims == 2
        and p.channels_last
        and p.dtype is torch.bfloat16
        and p.weight_dtype in (torch.bfloat16, torch.float32)
        and not any(channels % _CHANNELS for channels in p.weight[:2])
        and 0 not in p.x
        and native.load() is None
    )


@cache
def by_amx() -> bool:
    """Whether the kernels run on the processor's matrix unit."""
    if native.load() is not None or not hasattr(torch.ops.fastgan, "bf16_by_amx"):
        return False  # the latter of a library built from earlier sources
    return bool(torch.ops.fastgan.bf16_by_amx())


def prefers(p: Problem) -> bool:
    """By measurement on Zen 5, for all passes alike, and with AMX on Sapphire Rapids.

    With a stride oneDNN takes 1.5 to 2.1 times as long for the weight gradient, 0.95 to 1.4 times
    for the other passes, longest for rows of up to four; and its weights and their gradient have to
    be converted. Beside AMX it takes 1.2 to 2.4 times as long for the weight gradient, and 1.1 to
    1.9 times for the other passes in rows of up to eight.
    """
    if min(p.weight[:2]) < _MIN_CHANNELS:
        return False
    size = p.map[2:]
    if by_amx():
        if any(channels % _CHANNELS_AMX for channels in p.weight[:2]):
            return False
        short = p.of == WEIGHT_GRADIENT or size[1] <= _SHORT_ROW_AMX
        return short and max(size) > 1 and min(p.geometry.stride) > 1
    if not processor.dot_products():
        return False
    return max(size) > 1 if size[1] <= _SHORT_ROW else min(p.geometry.stride) > 1


def beats_eager(p: Problem, grad_x: bool) -> bool:
    return False  # eager's convolutions of bfloat16 are as fast by themselves


def to_map(p: Problem, image: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    stride, padding, *_ = p.geometry
    found: Tensor = torch.ops.fastgan.bf16_conv(
        laid_out(p, image), laid_out(p, weight), stride, padding, p.map[2:], bias
    )
    return found


def to_image(p: Problem, map: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    stride, padding, *_ = p.geometry
    found: Tensor = torch.ops.fastgan.bf16_conv_transpose(
        laid_out(p, map), laid_out(p, weight), stride, padding, p.image[2:], bias
    )
    return found


def to_weight(p: Problem, image: Tensor, map: Tensor) -> Tensor:
    stride, padding, *_ = p.geometry
    found: Tensor = torch.ops.fastgan.bf16_conv_weight(
        laid_out(p, image), laid_out(p, map), list(p.kernel), stride, padding, p.weight_dtype
    )
    return found


run = by_role(to_map, to_image, to_weight)
