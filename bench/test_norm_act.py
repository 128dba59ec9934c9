"""norm_act on DCGAN-64's activations, in training: against batch norm → LeakyReLU of torch.nn."""

from __future__ import annotations

from itertools import product

import torch
from torch import nn

from bench.conftest import Compared, on_devices
from bench.harness.case import BACKWARD, BOTH, FORWARD, Case
from bench.harness.cost import of_norm_act
from bench.harness.peers import PEERS
from bench.harness.workload import Implementation, Workload
from fastgan.nn import BatchNormAct2d

SLOPE = 0.2
PER_IMAGE = [(512, 4, 4), (256, 8, 8), (128, 16, 16), (64, 32, 32)]
DTYPES = ["float32", "bfloat16"]
LAYOUTS = ["contiguous", "channels last"]
QUICK = [("channels last", "float32"), ("channels last", "bfloat16"), ("contiguous", "float32")]
# On a GPU also at a batch whose activations exceed the cache.
BATCHES = {"cpu": [64], "cuda": [128, 1024]}
OWN = {"cpu": {"fused": "cpu"}, "cuda": {"fused": "cuda", "fused (triton)": "triton"}}


def fused(model: nn.Module) -> nn.Module:
    assert isinstance(model, nn.Sequential)
    norm = model[0]
    layer = BatchNormAct2d(norm.num_features, negative_slope=SLOPE, device=norm.weight.device)
    layer.load_state_dict(norm.state_dict())
    return layer


def cases(device: str) -> list[Case]:
    """All parts on one shape, forward + backward on the others."""
    found = []
    for batch, image, layout, dtype in product(BATCHES[device], PER_IMAGE, LAYOUTS, DTYPES):
        whole = image == (128, 16, 16) and layout == "channels last"
        for part in [BOTH, FORWARD, BACKWARD] if whole else [BOTH]:
            shape = "×".join(map(str, (batch, *image)))
            found.append(Case("norm_act", shape, dtype, layout, part, device))
    return found


def quick(case: Case) -> bool:
    return case.part == BOTH and "128×16×16" in case.shape and (case.layout, case.dtype) in QUICK


def workload(case: Case) -> Workload:
    shape = torch.Size(map(int, case.shape.split("×")))
    norm = nn.BatchNorm2d(shape[1])
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias, 0.0, 0.2)
    model = nn.Sequential(norm, nn.LeakyReLU(SLOPE, inplace=True))
    ours = {
        name: Implementation(fused, case.layout, True, backend)
        for name, backend in OWN[case.device].items()
    }
    theirs = {name: Implementation(build, case.layout) for name, build in PEERS.items()}
    itemsize = getattr(torch, case.dtype).itemsize
    return Workload(case, model, [shape], ours | theirs, of_norm_act(shape, itemsize, case.part))


@on_devices(cases, quick)
def test_norm_act(case: Case, compared: Compared) -> None:
    compared(case, workload)
