"""gather_images against its composition in PyTorch: select, mirror, convert, scale.

Rounds alternate; a ratio is the median over the rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor

from bench.conftest import DEVICES
from bench.harness.clock import clock_of
from bench.harness.session import Session
from bench.paired import interleave, percentiles, ratio_interval
from fastgan.ops import gather_images

ROUNDS = 60
SHAPES = {"digits": (64, 1, 28, 28), "DCGAN-64": (128, 3, 64, 64), "256": (16, 3, 256, 256)}
PEERS = ("composition", "compiled")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def composition(images: Tensor, index: Tensor, flips: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Over NHWC images, as a resident loader does it without the op."""
    chosen = images.index_select(0, index)
    if flips is not None:
        chosen = torch.where(flips[:, None, None, None], chosen.flip(2), chosen)
    return chosen.to(torch.float32).div_(127.5).sub_(1.0).to(dtype).permute(0, 3, 1, 2)


def candidates(
    name: str, dtype: torch.dtype, flip: bool, device: str
) -> tuple[dict[str, Callable[[], object]], int]:
    batch, channels, height, width = SHAPES[name]
    count = 256 * 2**20 // (channels * height * width)  # a set that no cache holds
    rows = torch.randint(
        0, 256, (min(count, 20000), height, width, channels), dtype=torch.uint8, device=device
    )
    images = rows.permute(0, 3, 1, 2)
    order = torch.randperm(len(rows), device=device)
    coins = torch.rand(len(rows), device=device) < 0.5
    turn = {"own": 0, "composition": 0, "compiled": 0}

    def batch_of(who: str) -> tuple[Tensor, Tensor | None]:
        first = turn[who] % (len(order) // batch) * batch
        turn[who] += 1
        chosen = slice(first, first + batch)
        return order[chosen], coins[chosen] if flip else None

    torch._dynamo.reset()
    compiled = torch.compile(composition, fullgraph=True, dynamic=False)
    runs: dict[str, Callable[[], object]] = {
        "own": lambda: gather_images(images, *batch_of("own"), dtype=dtype),
        "composition": lambda: composition(rows, *batch_of("composition"), dtype),
        "compiled": lambda: compiled(rows, *batch_of("compiled"), dtype),
    }
    return runs, batch * channels * height * width


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.full
def test_gather_images(device: str, suite: Session) -> None:
    for name, (kind, dtype), flip in product(SHAPES, DTYPES.items(), (False, True)):
        runs, values = candidates(name, dtype, flip, device)
        times = interleave(runs, ROUNDS, clock=clock_of(device))
        row = {
            "kind": "gather",
            "device": device,
            "batch": f"{name}, {kind}{', flips' if flip else ''}",
            "bytes": values * (1 + dtype.itemsize),
            "seconds": percentiles(times["own"]),
            "ratio": {p: list(ratio_interval(times[p], times["own"])) for p in PEERS},
        }
        suite.add("gather_images", row)
