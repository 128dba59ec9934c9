"""Outputs that are written by non-temporal stores: the same bits as two that are not."""

from __future__ import annotations

from math import prod

import pytest
import torch
from parity import DTYPES, channels_last
from torch import Tensor

from fastgan.ops import backend, bias_act, norm_act

STREAMED_BYTES = 16 << 20  # as in csrc/cpu/runtime/plan.h
# Planes of whole vectors, of parts of vectors, cut into pieces that begin amid one; and a second
# half that begins amid one.
SAMPLES = [(16, 32, 32), (16, 31, 33), (16, 181, 183), (5, 31, 33)]


@pytest.fixture(params=SAMPLES, ids=str)
def sample(request: pytest.FixtureRequest) -> tuple[int, int, int]:
    found: tuple[int, int, int] = request.param
    return found


def pair(
    sample: tuple[int, int, int], dtype: torch.dtype, layout: str
) -> tuple[Tensor, list[Tensor], Tensor]:
    """x, large enough to be streamed; its halves of an odd batch, which are not; a gradient."""
    half = -(-STREAMED_BYTES // (prod(sample) * dtype.itemsize) // 2) | 1
    shape = (2 * half, *sample)
    as_asked = channels_last if layout == "channels_last" else Tensor.contiguous
    x, dz = (as_asked(torch.randn(shape).to(dtype)) for _ in range(2))
    halves = [as_asked(half).requires_grad_() for half in x.chunk(2)]
    assert halves[0].numel() * dtype.itemsize < STREAMED_BYTES <= x.numel() * dtype.itemsize
    return x.requires_grad_(), halves, dz


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_norm_act(
    sample: tuple[int, int, int], dtype: torch.dtype, layout: str, training: bool
) -> None:
    x, halves, dz = pair(sample, dtype, layout)
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    running = torch.full(sample[:1], 0.1, dtype=wide), torch.full(sample[:1], 1.2, dtype=wide)

    def run(x: Tensor, dz: Tensor, segments: int) -> tuple[Tensor, Tensor]:
        given = (None, None) if training else running
        z = norm_act(x, *given, training=training, negative_slope=0.2, segments=segments)
        (dx,) = torch.autograd.grad(z, x, dz)
        return z.detach(), dx

    with backend("cpu"):
        whole = run(x, dz, 2)
        parts = [run(half, g, 1) for half, g in zip(halves, dz.chunk(2), strict=True)]
    for own, halved in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(own, torch.cat(halved))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bias_act(sample: tuple[int, int, int], dtype: torch.dtype, layout: str) -> None:
    x, halves, _ = pair(sample, dtype, layout)
    with backend("cpu"):
        assert torch.equal(bias_act(x), torch.cat([bias_act(half) for half in halves]))
