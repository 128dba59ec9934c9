"""A history of CPU ratios, and the gate that CI holds a change to.

    python -m bench.harness.history           judge this tree; exit status 1 if it got slower
    python -m bench.harness.history --record  judge, and put this machine's ratios into the history

What is kept are ratios of eager PyTorch's time over ours, from interleaved rounds on one thread:
what else the machine does falls on both alike. A case fails if its ratio is below 0.7 of the lowest
that the history holds for processors of the same instruction set, and two further measurements say
so too. Where the history has no such processor, ratios are printed and nothing is judged.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from bench.harness import machine
from bench.harness.case import BOTH, FORWARD, Case
from bench.harness.measure import Plan, measure
from bench.harness.peers import PEERS
from bench.harness.results import Row
from bench.harness.workload import Implementation, Runner, Workload
from bench.paired import ratio_interval
from fastgan.fusion import fuse

HISTORY = machine.ROOT / "bench" / "history" / "cpu.jsonl"
DROP = 0.7
RERUNS = 2
PLAN = Plan(seconds=2.0, least=9, most=40)

Ratios = dict[str, float]


def norm(shape: str, layout: str, dtype: str) -> tuple[Case, nn.Module]:
    channels = int(shape.split("×")[1])
    model = nn.Sequential(nn.BatchNorm2d(channels), nn.LeakyReLU(0.2, inplace=True))
    return Case("norm_act", shape, dtype, layout, BOTH), model


def to_image() -> tuple[Case, nn.Module]:
    model = nn.Sequential(nn.ConvTranspose2d(64, 3, 4, 2, 1), nn.Tanh())
    return Case("to RGB", "16×64×32×32", "float32", "channels last", FORWARD), model


def block() -> tuple[Case, nn.Module]:
    model = nn.Sequential(
        nn.Conv2d(3, 32, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(32, 64, 4, 2, 1, bias=False), nn.BatchNorm2d(64),
        nn.LeakyReLU(0.2, inplace=True),
    )  # fmt: skip
    return Case("discriminator blocks", "16×3×64×64", "float32", "channels last", BOTH), model


CASES: dict[str, Callable[[], tuple[Case, nn.Module]]] = {
    "norm 16x16": lambda: norm("32×128×16×16", "channels last", "float32"),
    "norm 16x16 bfloat16": lambda: norm("32×128×16×16", "channels last", "bfloat16"),
    "norm 8x8 contiguous": lambda: norm("32×256×8×8", "contiguous", "float32"),
    "to RGB": to_image,
    "discriminator blocks": block,
}


def measured(names: list[str]) -> Ratios:
    """Eager's time over ours for each named case. RuntimeError where ours is wrong."""
    found = {}
    for name in names:
        result = measure(_workload(name), PLAN)
        if "fused" not in result.times or "eager" not in result.times:
            raise RuntimeError(f"{name}: {result.left_out}")
        found[name] = ratio_interval(result.times["eager"], result.times["fused"]).value
    return found


def _workload(name: str) -> Workload:
    case, model = CASES[name]()
    shape = tuple(map(int, case.shape.split("×")))
    ways = {
        "fused": Implementation(fuse, case.layout, own=True),
        "eager": Implementation(PEERS["eager"], case.layout),
    }
    return Workload(case, model, [shape], ways, network="norm" not in name)


def own_runner(name: str) -> Runner:
    """Our implementation of a case, built."""
    return _workload(name).runner("fused")


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


def judge(lowest: Ratios, measure_again: Callable[[list[str]], Ratios]) -> tuple[Ratios, list[str]]:
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
    started = time.monotonic()
    instructions = torch.backends.cpu.get_cpu_capability()
    lowest = bounds(read(), instructions)
    ratios, failed = judge(lowest, measured)
    for name, value in ratios.items():
        past = f"lowest so far {lowest[name]:.2f}" if name in lowest else "no history"
        print(f"{name:22} eager takes {value:5.2f} times as long as ours ({past})")
    print(f"one thread, {instructions}, {time.monotonic() - started:.0f} s")
    if chosen.record:
        record(ratios)
        print(f"recorded in {HISTORY.relative_to(machine.ROOT)}")
        return 0
    for name in failed:
        print(f"slower: {name} fell by more than {1 - DROP:.0%} in {1 + RERUNS} measurements")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
