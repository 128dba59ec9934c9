"""A training step of DCGAN-64: ngf = ndf = 64, latent 100; one update of each network.

"fused": `FusedSequential`, channels-last; "joint" with one discriminator pass over [real; fake].
Peers are the same networks of torch.nn. They freeze the discriminator in the generator's update, as
ours does: equal work. "tutorial" does not, as in PyTorch's DCGAN tutorial, whose weight gradients
of that update are formed and thrown away.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from bench.conftest import Compared, on_devices
from bench.dcgan_step import StepImplementation, StepWorkload
from bench.harness.case import STEP, Case
from bench.harness.peers import PEERS
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
        if name != "eager":
            found[f"{name} (channels last)"] = StepImplementation(PEERS[name], last)
    return found


def step(batch: int, dtype: str, device: str) -> Case:
    return Case("DCGAN-64 step", f"batch {batch}", dtype, "channels last", STEP, device)


def cases(device: str) -> list[Case]:
    return [step(b, dtype, device) for b in BATCHES[device] for dtype in ("float32", "bfloat16")]


def workload(case: Case) -> StepWorkload:
    return StepWorkload(case, implementations(), int(case.shape.removeprefix("batch ")), WIDTH)


@on_devices(cases, lambda case: case == step(QUICK[case.device], "float32", case.device))
def test_training_step(case: Case, compared: Compared) -> None:
    compared(case, workload)
