"""Whether anything is ever slower: the zoo and held-out sizes, by all that people do with them.

    python -m bench.never_slower                      # measures what is not in the file yet
    python -m bench.never_slower patchgan --batch 1   # these rows alone
    python -m bench.never_slower --table              # what is there: medians, the worst row

A row is a model, layout, batch and dtype, and one of: "training" (`fuse`, forward and backward),
"evaluation" (`fuse`, forward) and "inference" (`fold`, forward; beside it "frozen", torch.compile
with its weights as constants, if asked for by --frozen). Each is measured in five fresh processes,
in turns with the original on tensors of the same layout. A process measures all rows of a model, in
an order of its own, so that what an earlier row leaves behind differs. Its ratio of a row is the
median of its rounds', and is appended to the file when it is there: a run that is cut goes on.
Processor time is taken instead of the clock's with --cpu-time, for one thread on a busy machine.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bench.harness import peers
from bench.harness.case import CHANNELS_LAST, LAYOUTS, laid, laid_model
from bench.paired import Clock, host_clock, interleave, ratio_interval
from bench.test_fuse import SIZES
from bench.zoo import ZOO
from fastgan import fold, fuse
from fastgan.nn.planner import Form

HELD_OUT = {  # width, batch: sizes that no choice was made on
    "dcgan-generator": (48, 24), "dcgan-discriminator": (48, 24),
    "torchgan-discriminator": (16, 96), "patchgan": (48, 8), "cyclegan-generator": (16, 16),
    "srgan-discriminator": (16, 32), "esrgan-discriminator": (16, 16), "dac-bands": (24, 4),
    "darknet-53": (16, 4), "nnunet-2d": (24, 8), "nnunet-3d": (8, 8),
}  # fmt: skip
PROCESSES = 5
PARTS = ("training", "evaluation", "inference")
DTYPES = ("float32", "bfloat16")  # the latter by autocast
BATCHES = (1, 8, 64)
MIN_RATIO = 0.97
SECONDS = 1.2  # of timed rounds
ROUNDS = 7, 31


class Row(NamedTuple):
    """What is measured; `process` tells its repetitions apart."""

    model: str
    width: int
    layout: str
    batch: int
    dtype: str
    part: str
    process: int


def by_process(chosen: argparse.Namespace) -> Iterator[list[Row]]:
    """The rows of each process, in its order."""
    sizes = [(name, width) for name, (width, _) in (*SIZES.items(), *HELD_OUT.items())]
    for process in range(chosen.processes):
        for size in sizes:
            if not chosen.models or size[0] in chosen.models:
                conditions = product(LAYOUTS, chosen.batch, chosen.dtype, chosen.part)
                rows = [Row(*size, *of, process) for of in conditions]
                yield random.Random(process).sample(rows, len(rows))


def cpu_clock(run: Callable[[], object]) -> float:
    """Processor time of one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def measured(row: Row, frozen: bool, clock: Clock) -> dict[str, Any]:
    """Milliseconds of the original and of ours, the ratio, and whether ours is the original's own
    forward; a reason where there is none."""
    torch.manual_seed(0)
    original = ZOO[row.model].build(width=row.width)
    arguments = [torch.randn(row.batch, *shape) for shape in ZOO[row.model].inputs]
    if row.layout == CHANNELS_LAST:
        if max(p.dim() for p in original.parameters()) < 4:
            return {"why": "there is no such layout"}
        laid_model(original, row.layout)
        arguments = [laid(x, row.layout) for x in arguments]
    if row.part != "training":
        original.eval()
    make = fold if row.part == "inference" else fuse
    models = {"original": original, "ours": make(copy.deepcopy(original))}
    if frozen and row.part == "inference":
        models["frozen"] = peers.FROZEN(copy.deepcopy(original))
    calls = {key: _call(model, arguments, row) for key, model in models.items()}
    try:
        for call in (*calls.values(), *calls.values()):
            call()
        start = time.perf_counter()
        for call in calls.values():
            call()
    except (RuntimeError, ValueError) as error:  # a batch of one, of which norms make no statistics
        return {"why": str(error).splitlines()[0][:120]}
    took = time.perf_counter() - start
    rounds = max(ROUNDS[0], min(ROUNDS[1], int(SECONDS / took)))
    times = interleave(calls, rounds, clock=clock)
    found = {f"{key} ms": 1e3 * median(seconds) for key, seconds in times.items()}
    others = {key: ratio_interval(times["original"], times[key]).value for key in list(times)[1:]}
    report = getattr(models["ours"], "fusion_report", None)
    plain = report is not None and all(Form(run.form).plain for run in report.runs)
    return {**found, "ratio": others.pop("ours"), **others, "plain": plain}


def _training_pass(model: nn.Module, arguments: list[Tensor]) -> Callable[[], object]:
    parameters = list(model.parameters())

    def run() -> None:
        for p in parameters:
            p.grad = None
        sum(y.square().mean() for y in tree_leaves(model(*arguments))).backward()

    return run


def _call(model: nn.Module, arguments: list[Tensor], row: Row) -> Callable[[], object]:
    run = _training_pass(model, arguments) if row.part == "training" else lambda: model(*arguments)

    def call() -> None:
        half = torch.autocast("cpu", torch.bfloat16) if row.dtype == "bfloat16" else nullcontext()
        with torch.set_grad_enabled(row.part == "training"), half:
            run()

    return call


def in_fresh_process(
    rows: Iterable[Row], frozen: bool = False, cpu_time: bool = False
) -> Iterator[tuple[Row, dict[str, Any]]]:
    """What is found of each row, one after another."""
    clock = cpu_clock if cpu_time else host_clock
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=fresh) as pool:
        for row in rows:
            yield row, pool.submit(measured, row, frozen, clock).result()


def known(path: Path) -> dict[Row, dict[str, Any]]:
    """What stands in the file; a line that was cut is left out."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[Row(**{name: entry.pop(name) for name in Row._fields})] = entry
    return found


class Summary(NamedTuple):
    """Of the processes that measured a row: the median ratio, the least and the greatest, and the
    medians of milliseconds."""

    ratio: float
    least: float
    greatest: float
    original: float
    ours: float
    processes: int

    def __str__(self) -> str:
        return f"{self.ratio:.2f} ({self.least:.2f}–{self.greatest:.2f})"


def summaries(found: dict[Row, dict[str, Any]]) -> dict[Row, Summary]:
    """By row, whose process is 0. Rows that could not be measured are left out."""
    entries: dict[Row, list[dict[str, Any]]] = defaultdict(list)
    for row, entry in found.items():
        if "ratio" in entry:
            entries[row._replace(process=0)].append(entry)
    return {row: _summary(some) for row, some in entries.items()}


def _summary(entries: list[dict[str, Any]]) -> Summary:
    ratios = sorted(entry["ratio"] for entry in entries)
    times = [median(entry[f"{of} ms"] for entry in entries) for of in ("original", "ours")]
    return Summary(median(ratios), ratios[0], ratios[-1], times[0], times[1], len(entries))


def in_all(of: dict[Row, Summary]) -> str:
    """What the rows say together."""
    ratios = {row: summary.ratio for row, summary in of.items()}
    below = sum(ratio < MIN_RATIO for ratio in ratios.values())
    mean = geometric_mean(ratios.values())
    worst = min(ratios, key=ratios.__getitem__)
    told = ", ".join(map(str, worst[:-1]))
    return (
        f"{len(of)} rows, geometric mean {mean:.2f}, {below} below {MIN_RATIO}. "
        f"The least: {told}: {of[worst]}."
    )


def table(found: dict[Row, dict[str, Any]]) -> str:
    """A line for each row: the median of its processes, the least and the greatest."""
    of = summaries(found)
    lines = [
        "| model | width | layout | batch | dtype | part | speed | original, ms | ours, ms |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row, summary in of.items():
        cells = *row[:-1], summary, f"{summary.original:.2f}", f"{summary.ours:.2f}"
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join([*lines, "", in_all(of)] if of else lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", choices=[[], *ZOO], help="by default the whole zoo")
    parser.add_argument("--batch", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parser.add_argument("--file", type=Path, default=Path("build/never_slower.jsonl"))
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--frozen", action="store_true", help="torch.compile with freezing, too")
    parser.add_argument("--cpu-time", action="store_true", help="processor time")
    chosen = parser.parse_args()
    found = known(chosen.file)
    chosen.file.parent.mkdir(parents=True, exist_ok=True)
    for rows in () if chosen.table else by_process(chosen):
        lacking = [row for row in rows if row not in found]
        for row, entry in in_fresh_process(lacking, chosen.frozen, chosen.cpu_time):
            found[row] = entry
            with chosen.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**row._asdict(), **entry}) + "\n")
            shown = {k: v if isinstance(v, str) else round(v, 3) for k, v in entry.items()}
            print(*row, shown, flush=True)
    print(table(found))


if __name__ == "__main__":
    main()
