"""The least time that a device needs for so many operations and bytes, from what it was seen to do.

Source of the model: Williams, Waterman and Patterson 2009, doi:10.1145/1498765.1498785.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch

# Of the square matrices of the product, and bytes of the copied tensor: beyond the caches.
_SIDE = {"cpu": 1024, "cuda": 8192}
_BYTES = {"cpu": 1 << 26, "cuda": 1 << 28}
_SECONDS = 0.2  # for so long, and at least so many rounds, each is run
_ROUNDS = 5


class Rates(NamedTuple):
    """What a device does at most: operations (two a multiply-add) and bytes a second."""

    operations: float
    bytes: float


def floor_seconds(
    operations: float, traffic: float, device: torch.device, dtype: torch.dtype
) -> float:
    """Seconds that neither the operations nor the bytes can be done in less than."""
    rates = measured_rates(device, dtype)
    return max(operations / rates.operations, traffic / rates.bytes)


@cache
def measured_rates(device: torch.device, dtype: torch.dtype) -> Rates:
    """Those of the library's faster one of a matrix product and a convolution in a dtype (on some
    processors its products use half the width of their vectors), and of a copy."""
    side = _SIDE.get(device.type, _SIDE["cpu"])
    matrix = torch.ones(side, side, dtype=dtype, device=device)
    product = 2 * side**3 / _least_seconds(lambda: matrix @ matrix, device)
    x = torch.ones(16, 256, 34, 34, dtype=dtype, device=device)
    weight = torch.ones(256, 256, 3, 3, dtype=dtype, device=device)
    x, weight = (t.contiguous(memory_format=torch.channels_last) for t in (x, weight))
    y = torch.conv2d(x, weight)
    operations = 2 * y.numel() * weight[0].numel()
    convolution = operations / _least_seconds(lambda: torch.conv2d(x, weight), device)
    size = _BYTES.get(device.type, _BYTES["cpu"])
    # Not of zeros: until it is written, such memory is one page.
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    copy = _least_seconds(lambda: target.copy_(source), device)
    return Rates(max(product, convolution), 2 * size / copy)


def _least_seconds(call: Callable[[], object], device: torch.device) -> float:
    call()
    seconds: list[float] = []
    while len(seconds) < _ROUNDS or sum(seconds) < _SECONDS:
        start = now(device)
        call()
        seconds.append(now(device) - start)
    return min(seconds)


def now(device: torch.device) -> float:
    """Seconds, when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
