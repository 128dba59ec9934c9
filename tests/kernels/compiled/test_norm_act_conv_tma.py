"""Blocks by the kernels for GPUs with TMA, compiled: numbers, of what `interpreted/` runs small."""

from __future__ import annotations

import pytest
import torch
from devices import COMPILED
from tma_chain import check_chain, images

from fastgan.nn.recording import recording
from fastgan.ops import backend, convolution_form

pytestmark = COMPILED


@pytest.fixture(autouse=True)
def _fused() -> None:
    from fastgan.kernels.conv_block.tma import plan

    if not plan.has_tma(torch.device("cuda")):
        pytest.skip("a GPU before Hopper has no TMA")


@pytest.mark.parametrize("parts", [1, 2], ids=["whole", "segments"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("n", "side", "channels"),
    [(8, 16, 64), (2, 12, 80), (64, 32, 128), (4, 4, 512)],
    ids=["one step", "boxes that overhang", "many tiles", "slices"],
)
def test_a_chain_is_the_layers(
    n: int, side: int, channels: int, dtype: torch.dtype, parts: int
) -> None:
    x, g = (t.to("cuda") for t in images(n, side, channels))
    with convolution_form("fused"), backend("triton"), recording() as runs:
        check_chain(parts, x, g, dtype)
    assert [run.form for run in runs] == ["fused", "fused", "recompute"]
