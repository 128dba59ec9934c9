"""A run of the suite: what is measured is on disk at once, so that a run that is cut keeps it."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench.harness import drafts, machine, peers, results
from bench.harness.case import Case
from bench.harness.measure import QUICK, Measurement, Plan, measure
from bench.harness.results import Row
from bench.harness.workload import Work


@dataclass
class Session:
    """What was measured so far, by test module, and where it is to be written."""

    folder: Path
    kept: Path | None = None  # the folder whose place it takes in the end, file by file
    quick: bool = False
    deadline: float = math.inf  # of time.monotonic(): no further case is begun after it
    go_on: bool = False  # keep what the folder holds of this code, and measure only the rest
    late: bool = False  # a case was left out for the deadline
    rows: dict[str, list[Row]] = field(default_factory=dict)
    ceilings: dict[str, dict[str, float]] = field(default_factory=dict)
    _before: dict[str, list[Row]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        machine.equal_settings()

    def why_not(self, module: str, case: Case) -> str | None:
        """Why a case is not to be measured now; None where it is."""
        before = self.before(module, case.device)
        stands = [row for row in before if row.get("case") == case._asdict()]
        if stands and not any(row["own"] and "left_out" in row for row in stands):
            return f"its results stand in {self.folder}"
        if time.monotonic() <= self.deadline:
            return None
        self.late = True
        return "out of time (--time-limit)"

    def measure(self, module: str, case: Case, make: Callable[[Case], Work]) -> Measurement:
        torch._dynamo.reset()
        torch.manual_seed(0)
        self.ceilings[case.device] = machine.ceilings(case.device)
        work = make(case)
        if self.quick:
            work.implementations = self.of_quick(work)
        found = measure(work, QUICK if self.quick else Plan())
        del work
        gc.collect()
        self.add(module, *found.rows(self.ceilings[case.device]))
        return found

    def of_quick(self, work: Work) -> dict[str, Any]:
        """The implementations of a quick run: ours, eager and, where compiling takes seconds and
        not minutes, compiled; in every layout."""
        quick = peers.QUICK[:1] if work.network else peers.QUICK
        known = work.implementations.items()
        return {n: how for n, how in known if how.own or n.partition(" (")[0] in quick}

    def add(self, module: str, *rows: Row) -> None:
        """Keep rows of a module and write its file."""
        self.rows.setdefault(module, []).extend(rows)
        new = self.rows[module]
        device = new[0].get("case", {}).get("device", "cpu")
        known = [results.identity(row) for row in new]
        kept = [r for r in self.before(module, device) if results.identity(r) not in known]
        results.write(self.path(module), self.run(device), [*kept, *new])

    def before(self, module: str, device: str) -> list[Row]:
        """With `go_on`: the rows of this code and machine that stand in the folder."""
        if not self.go_on:
            return []
        if module not in self._before:
            self._before[module] = drafts.begun(self.path(module), device)
        return self._before[module]

    def finish(self, well: bool, whole: bool) -> Iterator[str]:
        """Says where the results are; those to be kept take their place where the run ended well.

        Args:
            whole: nothing of the suite was left out by name.
        """
        if self.kept is None:
            yield from (f"results: {self.path(module)}" for module in self.rows)
        elif well and not self.late:
            before = [module for module, rows in self._before.items() if rows]
            yield from drafts.take_place(self.kept, {**self.rows, **dict.fromkeys(before)}, whole)
        else:
            yield (
                f"{self.kept} is left as it is: not everything was measured. The same command goes "
                f"on with what {self.folder} holds"
            )

    def path(self, module: str) -> Path:
        """One file a test module; a module that measured nothing leaves its file as it is."""
        return self.folder / f"{module}.jsonl"

    def run(self, device: str) -> Row:
        """What the results are read with."""
        return {**machine.describe(device), "quick": self.quick, "ceilings": self.ceilings}
