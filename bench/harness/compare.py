"""This tree against its past, by a few CPU cases on one thread.

    python -m bench.harness.compare            against the history, as CI does: 1 if it got slower
    python -m bench.harness.compare --record   the same, and put this machine's ratios into it
    python -m bench.harness.compare COMMIT     against another commit; --only some cases

Either way a case is the ratio of eager PyTorch's time over ours, from interleaved rounds: what else
the machine does falls on both alike. A case fails if its ratio is below 0.7 of the lowest that
stands in the history for processors of the same instruction set, and two further measurements say
so too. Where the history has no such processor, ratios are printed and nothing fails.

Another commit is checked out and built in a temporary work tree. Processes on each tree's `fastgan`
take turns, all with this tree's cases. Where a process' memory lies moves a ratio by up to 20 %, so
that several fresh pairs are asked: the median of what each says, and the range of those.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

import torch
from torch import nn

from bench.harness import machine
from bench.harness.case import CHANNELS_LAST, CONTIGUOUS, FORWARD, Case
from bench.harness.machine import ROOT
from bench.harness.peers import PEERS
from bench.paired import ratio_interval, take_turns

HISTORY = ROOT / "bench" / "history" / "cpu.jsonl"
DROP, RERUNS = 0.7, 2
PAIRS, ROUNDS = 5, 9

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
_LEAKY = partial(nn.LeakyReLU, 0.2, inplace=True)
# By a case's op, from the channels of its input.
LAYERS: dict[str, Callable[[int], list[nn.Module]]] = {
    "norm": lambda channels: [nn.BatchNorm2d(channels), _LEAKY()],
    "to RGB": lambda channels: [nn.ConvTranspose2d(channels, 3, 4, 2, 1), nn.Tanh()],
    "blocks": lambda channels: [
        *(nn.Conv2d(channels, 32, 4, 2, 1), _LEAKY()),
        *(nn.Conv2d(32, 64, 4, 2, 1, bias=False), nn.BatchNorm2d(64), _LEAKY()),
    ],
}
STEP = "DCGAN-64 step"  # of batch 16, on one thread too long for CI


def workload(name: str) -> Any:
    """A case with ours and eager; ours is of the tree on the path when this is first called."""
    from bench.dcgan_step import StepImplementation, StepWorkload
    from bench.harness.workload import Implementation, Workload
    from fastgan.fusion import fuse

    if name == STEP:
        step = Case("step", "batch 16", "float32", CHANNELS_LAST)
        both = {
            "fused": StepImplementation(fuse, CHANNELS_LAST, own=True),
            "eager": StepImplementation(PEERS["eager"], CHANNELS_LAST),
        }
        return StepWorkload(step, both, batch=16, width=64)
    case = CASES[name]
    shape = tuple(map(int, case.shape.split("×")))
    ways = {
        "fused": Implementation(fuse, case.layout, own=True),
        "eager": Implementation(PEERS["eager"], case.layout),
    }
    model = nn.Sequential(*LAYERS[case.op](shape[1]))
    return Workload(case, model, [shape], ways, network=case.op != "norm")


def measured(names: list[str]) -> Ratios:
    """Eager's time over ours for each named case. RuntimeError where ours is wrong."""
    from bench.harness.measure import Plan, measure

    found = {}
    for name in names:
        result = measure(workload(name), Plan(seconds=2.0, least=9, most=40))
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


def against_history(recorded: bool) -> int:
    torch.set_num_threads(1)
    instructions = torch.backends.cpu.get_cpu_capability()
    lowest = bounds(read(), instructions)
    ratios, failed = confirmed(lowest, measured)
    for name, value in ratios.items():
        past = f"lowest so far {lowest[name]:.2f}" if name in lowest else "no history"
        print(f"{name:22} eager takes {value:5.2f} times as long as ours ({past})")
    print(f"one thread, {instructions}")
    if recorded:
        record(ratios)
        print(f"recorded in {HISTORY.relative_to(ROOT)}")
        return 0
    for name in failed:
        print(f"slower: {name} fell by more than {1 - DROP:.0%} in {1 + RERUNS} measurements")
    return 1 if failed else 0


def timed(names: Sequence[str]) -> Ratios:
    """As `measured`, unchecked: an older tree may lack what a check needs."""
    torch.set_num_threads(1)
    found = {}
    for name in names:
        work = workload(name)
        runs = {way: work.runner(way).ready for way in work.implementations}
        times = take_turns(runs, ROUNDS)
        found[name] = ratio_interval(times["eager"], times["fused"]).value
    return found


# `fastgan` of the tree that is asked for, `bench` of this one.
_TIMED = """
import json, sys
sys.path.insert(0, sys.argv[1])
import fastgan
del sys.path[0]
assert fastgan.__file__.startswith(sys.argv[1]), fastgan.__file__
from bench.harness.compare import timed
print(json.dumps(timed(sys.argv[2:])))
"""


def timed_on(tree: Path, cases: Sequence[str]) -> Ratios:
    """The ratios of a fresh process on a tree."""
    ratios: Ratios = json.loads(_run([sys.executable, "-c", _TIMED, str(tree), *cases]))
    return ratios


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """A commit's tree, built. RuntimeError where git or the build fails."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder).resolve() / "tree"
        _run(["git", "-C", str(ROOT), "worktree", "add", "--detach", str(tree), commit])
        try:
            _run([sys.executable, "setup.py", "-q", "build_native", "--inplace"], tree)
            yield tree
        finally:
            _run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(tree)])


def _run(command: list[str], folder: Path = ROOT) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def against_commit(commit: str, cases: Sequence[str]) -> int:
    try:
        with checked_out(commit) as tree:
            pairs = [(timed_on(ROOT, cases), timed_on(tree, cases)) for _ in range(PAIRS)]
    except RuntimeError as error:
        print(f"fastgan bench: error: {error}", file=sys.stderr)
        return 2
    values = {case: [this[case] / other[case] for this, other in pairs] for case in cases}
    for case, found in values.items():
        low, high = min(found), max(found)
        print(f"{case:22} {median(found):.2f}× the speed of {commit} [{low:.2f}, {high:.2f}]")
    mean = geometric_mean(map(median, values.values()))
    print(f"geometric mean {mean:.2f}×; one thread, median and range of {PAIRS} pairs of processes")
    return 0


def chosen_cases(only: str) -> list[str]:
    """The cases whose names hold a text. ValueError where none does."""
    known = [*CASES, STEP]
    found = [name for name in known if only.lower() in name.lower()]
    if not found:
        raise ValueError(f"--only: {only!r} is in no case's name; there are {', '.join(known)}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="fastgan bench --compare")
    parser.add_argument("commit", nargs="?", help="instead of the history")
    parser.add_argument("--only", default="", help="with a commit: cases whose names hold this")
    parser.add_argument("--record", action="store_true", help="append this machine's ratios")
    chosen = parser.parse_args()
    if not chosen.commit:
        if chosen.only:
            parser.error("--only needs a commit")
        return against_history(chosen.record)
    try:
        cases = chosen_cases(chosen.only)
    except ValueError as error:
        parser.error(str(error))
    return against_commit(chosen.commit, cases)


if __name__ == "__main__":
    sys.exit(main())
