"""A few ratios of eager PyTorch's time to ours, on one CPU thread, against the history.

    python -m bench.harness.compare            as CI does: 1 if it got slower
    python -m bench.harness.compare --record   the same, and put this machine's ratios into it

Rounds are interleaved: what else the machine does falls on both alike. A case fails if its ratio is
below 0.7 of the lowest that stands in the history for processors of the same instruction set, and
two further measurements say so too. Where the history has no such processor, ratios are printed and
nothing fails.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.harness import machine
from bench.harness.case import CHANNELS_LAST, CONTIGUOUS, FORWARD, Case
from bench.harness.machine import ROOT
from bench.harness.measure import Plan, measure
from bench.harness.peers import PEERS
from bench.harness.workload import Implementation, Workload
from bench.paired import ratio_interval
from fastgan.fusion import fuse

HISTORY = ROOT / "bench" / "history" / "cpu.jsonl"
DROP, RERUNS = 0.7, 2

Row = dict[str, Any]
Ratios = dict[str, float]

CASES = {
    "norm 16x16": Case("norm", "32×128×16×16", "float32", CHANNELS_LAST),
    "norm 16x16 bfloat16": Case("norm", "32×128×16×16", "bfloat16", CHANNELS_LAST),
    "norm of one image": Case("norm", "1×64×8×8", "float32", CHANNELS_LAST),
    "norm 8x8 contiguous": Case("norm", "32×256×8×8", "float32", CONTIGUOUS),
    "to RGB": Case("to RGB", "16×64×32×32", "float32", CHANNELS_LAST, FORWARD),
    "discriminator blocks": Case("blocks", "16×3×64×64", "float32", CHANNELS_LAST),
}


def layers(op: str, channels: int) -> list[nn.Module]:
    """What a case runs, of inputs of so many channels."""
    leaky = partial(nn.LeakyReLU, 0.2, inplace=True)
    if op == "norm":
        return [nn.BatchNorm2d(channels), leaky()]
    if op == "to RGB":
        return [nn.ConvTranspose2d(channels, 3, 4, 2, 1), nn.Tanh()]
    first, second = nn.Conv2d(channels, 32, 4, 2, 1), nn.Conv2d(32, 64, 4, 2, 1, bias=False)
    return [first, leaky(), second, nn.BatchNorm2d(64), leaky()]


def workload(case: Case) -> Workload:
    """Ours and eager."""
    shape = tuple(map(int, case.shape.split("×")))
    builds = {"fused": fuse, "eager": PEERS["eager"]}
    ways = {n: Implementation(b, case.layout, own=n == "fused") for n, b in builds.items()}
    model = nn.Sequential(*layers(case.op, shape[1]))
    return Workload(case, model, [shape], ways, network=case.op != "norm")


def measured(names: list[str]) -> Ratios:
    """Eager's time over ours for each named case. RuntimeError where ours is wrong."""
    found = {}
    for name in names:
        result = measure(workload(CASES[name]), Plan(seconds=2.0, least=9, most=40))
        if "fused" not in result.times or "eager" not in result.times:
            raise RuntimeError(f"{name}: {result.left_out}")
        found[name] = ratio_interval(result.times["eager"], result.times["fused"]).value
    return found


def bounds(history: list[Row], instructions: str) -> Ratios:
    """The lowest ratio of each case on processors of an instruction set."""
    lowest: Ratios = {}
    for row in history:
        if row["instructions"] == instructions:
            for name, value in row["ratios"].items():
                lowest[name] = min(value, lowest.get(name, value))
    return lowest


def slower(ratios: Ratios, lowest: Ratios) -> list[str]:
    """The cases that fell by more than the gate allows."""
    return [name for name, value in ratios.items() if value < DROP * lowest.get(name, 0.0)]


def confirmed(
    lowest: Ratios, measure_again: Callable[[list[str]], Ratios]
) -> tuple[Ratios, list[str]]:
    """The first ratios, and the cases that are slower in this and in every further measurement."""
    ratios = measure_again(list(CASES))
    suspects = slower(ratios, lowest)
    for _ in range(RERUNS):
        if suspects:
            suspects = slower(measure_again(suspects), lowest)
    return ratios, suspects


def read(path: Path = HISTORY) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def record(ratios: Ratios, path: Path = HISTORY) -> None:
    """Append this machine's ratios."""
    known = machine.describe()
    row = {
        "date": known["time"][:10],
        "commit": known["commit"][:12],
        "torch": known["versions"]["torch"],
        "processor": known["machine"]["name"],
        "family": known["machine"]["family"],
        "instructions": known["machine"]["instructions"],
        "ratios": {name: round(value, 3) for name, value in ratios.items()},
    }
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--record", action="store_true", help="append this machine's ratios")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    instructions = torch.backends.cpu.get_cpu_capability()
    lowest = bounds(read(), instructions)
    ratios, failed = confirmed(lowest, measured)
    for name, value in ratios.items():
        past = f"lowest so far {lowest[name]:.2f}" if name in lowest else "no history"
        print(f"{name:22} eager takes {value:5.2f} times as long as ours ({past})")
    print(f"one thread, {instructions}")
    if chosen.record:
        record(ratios)
        print(f"recorded in {HISTORY.relative_to(ROOT)}")
        return 0
    for name in failed:
        print(f"slower: {name} fell by more than {1 - DROP:.0%} in {1 + RERUNS} measurements")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
