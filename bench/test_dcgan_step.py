"""A training step of DCGAN-64: ngf = ndf = 64, latent 100; one update of each network.

"fused": `FusedSequential`, channels-last; "joint" with one discriminator pass over [real; fake].
Peers are the same networks of torch.nn. They freeze the discriminator in the generator's update, as
ours does: equal work. "tutorial" does not, as in PyTorch's DCGAN tutorial, whose weight gradients
of that update are formed and thrown away.
"""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from bench.conftest import DEVICES, Compared
from bench.harness.breakdown import breakdown
from bench.harness.case import STEP, Case
from bench.harness.machine import rate
from bench.harness.peers import PEERS
from bench.harness.session import Session
from bench.harness.step import StepImplementation, StepWorkload
from fastgan.nn import FusedSequential

WIDTH = 64
BATCHES = {"cpu": [16, 64], "cuda": [64, 512]}
QUICK = {"cpu": 16, "cuda": 64}


def fused(model: nn.Module) -> nn.Module:
    return FusedSequential(OrderedDict(model.named_children()))


def implementations() -> dict[str, StepImplementation]:
    last = "channels last"
    found = {
        "fused": StepImplementation(fused, last, own=True),
        "fused, joint": StepImplementation(fused, last, own=True, joint=True),
        "eager": StepImplementation(PEERS["eager"], "contiguous"),
        "eager (channels last)": StepImplementation(PEERS["eager"], last),
        "eager (tutorial)": StepImplementation(PEERS["eager"], "contiguous", frozen=False),
        "eager (channels last, tutorial)": StepImplementation(PEERS["eager"], last, frozen=False),
    }
    for name in PEERS:
        if name not in ("eager", "In-Place ABN"):
            found[f"{name} (channels last)"] = StepImplementation(PEERS[name], last)
    return found


NAMES = list(implementations())


def cases(device: str) -> list[object]:
    found = []
    for batch in BATCHES[device]:
        for dtype in ("float32", "bfloat16"):
            case = Case("DCGAN-64 step", f"batch {batch}", dtype, "channels last", STEP, device)
            quick = dtype == "float32" and batch == QUICK[device]
            found.append(
                pytest.param(case, marks=[] if quick else [pytest.mark.full], id=str(case))
            )
    return found


def workload(case: Case) -> StepWorkload:
    return StepWorkload(case, implementations(), int(case.shape.removeprefix("batch ")), WIDTH)


@pytest.mark.parametrize("implementation", NAMES)
@pytest.mark.parametrize("case", cases("cpu"))
def test_training_step(case: Case, implementation: str, compared: Compared) -> None:
    compared(case, implementation, workload)


BROKEN_DOWN = ["fused", "fused, joint", "eager (channels last)", "eager (tutorial)"]


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("device", DEVICES)
def test_where_the_time_goes(device: str, dtype: str, suite: Session) -> None:
    case = Case(
        "DCGAN-64 step", f"batch {BATCHES[device][-1]}", dtype, "channels last", STEP, device
    )
    work = workload(case)
    rates = suite.ceilings(device)
    for name in BROKEN_DOWN:
        row = {"kind": "breakdown", "case": case.as_dict(), "implementation": name}
        parts = breakdown(work.runner(name).ready, device)
        floor = work.cost.floor(rates["bytes"], rate(rates, dtype))
        suite.add("dcgan_step", {**row, "own": name in work.own, "parts": parts, "floor": floor})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("implementation", NAMES)
@pytest.mark.parametrize("case", cases("cuda"))
def test_training_step_gpu(case: Case, implementation: str, compared: Compared) -> None:
    compared(case, implementation, workload)
