"""Tunes DCGAN-64 on this GPU: python -m tools.gpu.tune FOLDER writes the table there.

Like `fastgan tune dcgan-64`, for the batches of the benchmarks and two dtypes, and in an
environment that holds no more than torch, triton and numpy. With --continue, what FOLDER holds of
this code is kept, and what lacks is measured.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import OrderedDict
from itertools import product
from pathlib import Path

import torch
from torch import nn

from bench.commits.workload import LATENT, discriminator, generator
from bench.harness.source import source_hash
from fastgan.fusion import tune
from fastgan.nn import FusedSequential
from fastgan.ops.conv.timing import ranked
from fastgan.ops.conv.tuning import user_table

BATCHES = (128, 1024)
DTYPES = (torch.float32, torch.bfloat16)
NETWORKS = {
    "generator": (generator, (LATENT, 1, 1)),
    "discriminator": (discriminator, (3, 64, 64)),
}


def main(folder: Path, go_on: bool, device: str = "cuda") -> None:
    table, listed = folder / "tuning.json", folder / "tuned.json"
    done = already(listed, go_on)
    if done and table.exists():
        user_table().parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(table, user_table())
    for batch, dtype, (name, (make, shape)) in product(BATCHES, DTYPES, NETWORKS.items()):
        what = f"{name} {batch} {dtype}"
        if what in done:
            continue
        report(make(), (batch, *shape), dtype, device)
        done.append(what)
        # After each, so that what was measured is kept if the rest is cut off.
        shutil.copyfile(user_table(), table)
        listed.write_text(json.dumps({"source": source_hash(), "done": done}, indent=1) + "\n")


def already(listed: Path, go_on: bool) -> list[str]:
    """What was measured on this code in an earlier call."""
    if not go_on or not listed.exists():
        return []
    known = json.loads(listed.read_text())
    return list(known["done"]) if known["source"] == source_hash() else []


def report(model: nn.Sequential, shape: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    fused = FusedSequential(OrderedDict(model.named_children()))
    fused = fused.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(shape, device=device)
    with torch.autocast(device, dtype, enabled=dtype is not torch.float32):
        for layer, times in tune(fused, x).items():
            print(layer, dtype, ranked(times), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--continue" in sys.argv[2:])
