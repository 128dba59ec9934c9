"""Convolutions that are a plain matrix product (GEMM): their feature map has one position, and that
meets all of its image. A generator's projection is one, and the last layer of its discriminator.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor

from fastgan.ops.conv import im2col, unmeasured
from fastgan.ops.conv.problem import Problem
from fastgan.ops.conv.run import by_role
from fastgan.ops.core import dispatch

TIME, prefers, beats_eager = unmeasured.TIME, unmeasured.prefers, unmeasured.beats_eager


def name(p: Problem) -> str:
    return "GEMM"


def supports(p: Problem) -> bool:
    plain = p.dims == 2 and p.channels_last and 0 not in p.x and im2col.is_product(p)
    return plain and p.device in ("cpu", "cuda") and (p.device == "cpu" or _as_precise(p.dtype))


def _as_precise(dtype: torch.dtype) -> bool:
    """Whether products of a GPU have the precision that is set for its convolutions."""
    product, cudnn = torch.backends.cuda.matmul, cast(Any, torch.backends.cudnn)
    exact = dtype is not torch.float32 or product.fp32_precision != "tf32"
    return exact or cudnn.conv.fp32_precision == "tf32"


def _to_map(p: Problem, image: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if not _is_sum(p):
        return im2col.to_map(p, image, weight, bias)
    sums = _kernels().weighted_sum(_rows(image), _rows(weight)[0], bias, False, p.dtype)
    return cast(Tensor, sums).view(-1, 1, 1, 1)


def _to_weight(p: Problem, image: Tensor, map: Tensor) -> Tensor:
    if not _is_sum(p):
        return im2col.to_weight(p, image, map)
    sums = _kernels().weighted_sum(_rows(image), _rows(map)[:, 0], None, True, p.weight_dtype)
    return cast(Tensor, sums).view(1, *p.kernel, -1).permute(0, 3, 1, 2)


run = by_role(_to_map, im2col.to_image, _to_weight)


def _is_sum(p: Problem) -> bool:
    """Whether the map has one channel: a matrix product would leave most of a GPU idle."""
    return p.weight[0] == 1 and dispatch.why_not("triton", p.device, p.dtype) is None


def _rows(t: Tensor) -> Tensor:
    """(first axis, positions * channels), the channels innermost."""
    return t.permute(0, 2, 3, 1).contiguous().flatten(1)


def _kernels() -> Any:
    return import_module("fastgan.kernels.small_channels.one_output")
