"""A run of the suite: cases measured once and shared by the tests of their implementations."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench.harness import machine, peers, results
from bench.harness.case import Case
from bench.harness.measure import QUICK, Measurement, Plan, Work, measure


@dataclass
class Session:
    """What was measured so far, by test module, and where it is to be written."""

    folder: Path
    quick: bool = False
    deadline: float = math.inf  # of time.monotonic(): no further case is begun after it
    go_on: bool = False  # keep what the folder holds of this commit, and measure only the rest
    rows: dict[str, list[results.Row]] = field(default_factory=dict)
    measured: list[Measurement] = field(default_factory=list)
    known_ceilings: dict[str, dict[str, float]] = field(default_factory=dict)
    _before: dict[str, list[results.Row]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        machine.equal_settings()

    def why_not(self, module: str, case: Case) -> str | None:
        """Why a case is not to be measured now; None where it is, or was a moment ago."""
        if self.measured and self.measured[-1].case == case:
            return None
        if any(row.get("case") == case.as_dict() for row in self.before(module, case.device)):
            return f"its results stand in {self.folder}"
        return "out of time (--time-limit)" if time.monotonic() > self.deadline else None

    def measurement(self, module: str, case: Case, make: Callable[[Case], Work]) -> Measurement:
        """A case's measurement: taken at the first call, kept while its implementations ask.

        It is on disk when this returns: a run that is cut keeps what it measured.
        """
        if self.measured and self.measured[-1].case == case:
            return self.measured[-1]
        torch._dynamo.reset()
        torch.manual_seed(len(self.measured))
        ceilings = self.ceilings(case.device)
        work = make(case)
        only = set(self.of_quick(work)) if self.quick else None
        found = measure(work, QUICK if self.quick else Plan(), only)
        del work
        gc.collect()
        self.measured.append(found)
        self.add(module, *found.rows(ceilings))
        return found

    def of_quick(self, work: Work) -> list[str]:
        """The implementations of a quick run: ours, eager and, where compiling takes seconds and
        not minutes, compiled; in every layout."""
        quick = peers.QUICK[:1] if work.network else peers.QUICK
        short = [name for name in work.implementations if name.partition(" (")[0] in quick]
        return [*work.own, *short]

    def add(self, module: str, *rows: results.Row) -> None:
        self.rows.setdefault(module, []).extend(rows)
        self._write(module)

    def before(self, module: str, device: str) -> list[results.Row]:
        """With `go_on`: the rows of this commit and machine that stand in the folder."""
        if not self.go_on:
            return []
        if module not in self._before:
            try:
                run, rows = results.read(self.folder / f"{module}.jsonl")
            except (OSError, ValueError):
                run, rows = {}, []
            now = machine.describe(device)
            same = all(run.get(key) == now[key] for key in ("commit", "versions", "settings"))
            same = same and run["machine"]["name"] == now["machine"]["name"]
            self._before[module] = rows if same else []
        return self._before[module]

    def ceilings(self, device: str) -> dict[str, float]:
        """What this machine can do at best, measured once."""
        if device not in self.known_ceilings:
            self.known_ceilings[device] = machine.ceilings(device)
        return self.known_ceilings[device]

    def path(self, module: str) -> Path:
        """One file a test module; a module that measured nothing leaves its file as it is."""
        return self.folder / f"{module}.jsonl"

    def run(self, rows: list[results.Row]) -> dict[str, Any]:
        """What the results are read with."""
        devices = {row["case"]["device"] for row in rows if "case" in row} or {"cpu"}
        device = "cuda" if "cuda" in devices else "cpu"
        return {**machine.describe(device), "quick": self.quick, "ceilings": self.known_ceilings}

    def _write(self, module: str) -> None:
        new = self.rows[module]
        device = new[0].get("case", {}).get("device", "cpu")
        known = [results.identity(row) for row in new]
        kept = [r for r in self.before(module, device) if results.identity(r) not in known]
        rows = [*kept, *new]
        results.write(self.path(module), self.run(rows), rows)
