"""The least time that a device needs for so many operations and bytes, from what it was seen to do.

Source of the model: Williams, Waterman and Patterson 2009, doi:10.1145/1498765.1498785.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch

_SIDE = 1024  # of the square matrices of the product
_BYTES = 1 << 26  # of the copied tensor: beyond the caches
_ROUNDS = 5


def floor_seconds(
    operations: float, traffic: float, device: torch.device, dtype: torch.dtype
) -> float:
    """Seconds that neither the operations nor the bytes can be done in less than."""
    of_product, of_copy = _rates(device, dtype)
    return max(operations / of_product, traffic / of_copy)


@cache
def _rates(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """(operations a second of a matrix product in a dtype, bytes a second of a copy)."""
    matrix = torch.ones(_SIDE, _SIDE, dtype=dtype, device=device)
    source = torch.zeros(_BYTES, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    product = _least_seconds(lambda: matrix @ matrix, device)
    copy = _least_seconds(lambda: target.copy_(source), device)
    return 2 * _SIDE**3 / product, 2 * _BYTES / copy


def _least_seconds(call: Callable[[], object], device: torch.device) -> float:
    seconds = []
    for _ in range(_ROUNDS):
        start = now(device)
        call()
        seconds.append(now(device) - start)
    return min(seconds)


def now(device: torch.device) -> float:
    """Seconds, when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
