"""pytorch#2309, #3824, wgan-gp#21: memory grows with every step of a gradient penalty.

The double backward of batch norm and convolution kept what its graph had held.
Right: after 200 steps of R1 and of WGAN-GP as many bytes are in use as after the first ones, and
none of them waits for Python's collector of cycles.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from fastgan.nn import FusedSequential
from fastgan.regularizers import r1, wgan_gp

STEPS, WARM = 200, 40
MIN_BYTES = 100  # bytes of a tensor, be it empty


class _InUse(ctypes.Structure):
    """What glibc's mallinfo2 returns."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
            "fordblks", "keepcost",
        )
    ]  # fmt: skip


def bytes_in_use() -> int:
    """Allocated and not freed, exactly; not what the process keeps of the system's memory."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _InUse
    found = mallinfo()
    return int(found.uordblks + found.hblkhd)


@pytest.fixture(autouse=True)
def _cycles_stay() -> Iterator[None]:
    if not hasattr(ctypes.CDLL(None), "mallinfo2"):
        pytest.skip("the C library does not tell the bytes in use (mallinfo2)")
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_two_hundred_penalties_leave_nothing(setting: str) -> None:
    model = FusedSequential(
        nn.Conv2d(3, 8, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(8, 8, 3, 1, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.LeakyReLU(0.2),
        nn.Conv2d(8, 1, 4),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    real, fake = torch.randn(2, 2, 3, 8, 8)

    def steps(count: int) -> None:
        for i in range(count):
            optimizer.zero_grad()
            penalty = r1(model, real) if i % 2 else wgan_gp(model, real, fake)
            penalty.backward()
            optimizer.step()

    steps(WARM)
    before = bytes_in_use()
    steps(STEPS - WARM)
    grown = bytes_in_use() - before
    assert grown < MIN_BYTES * (STEPS - WARM), f"{grown} bytes more in use"
