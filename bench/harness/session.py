"""A run of the suite: cases measured once and shared by the tests of their implementations."""

from __future__ import annotations

import gc
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
    rows: dict[str, list[results.Row]] = field(default_factory=dict)
    measured: list[Measurement] = field(default_factory=list)
    _ceilings: dict[str, dict[str, float]] = field(default_factory=dict)

    def measurement(self, module: str, case: Case, make: Callable[[Case], Work]) -> Measurement:
        """A case's measurement: taken at the first call, kept while its implementations ask."""
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
        """The implementations of a quick run: ours, eager and compiled, in every layout."""
        short = [name for name in work.implementations if name.partition(" (")[0] in peers.QUICK]
        return [*work.own, *short]

    def add(self, module: str, *rows: results.Row) -> None:
        self.rows.setdefault(module, []).extend(rows)

    def ceilings(self, device: str) -> dict[str, float]:
        """What this machine can do at best, measured once."""
        if device not in self._ceilings:
            self._ceilings[device] = machine.ceilings(device)
        return self._ceilings[device]

    def write(self) -> list[Path]:
        """One file a test module; a module that measured nothing leaves its file as it is."""
        written = []
        for module, rows in self.rows.items():
            path = self.folder / f"{module}.jsonl"
            results.write(path, self._run(rows), rows)
            written.append(path)
        return written

    def _run(self, rows: list[results.Row]) -> dict[str, Any]:
        devices = {row["case"]["device"] for row in rows if "case" in row} or {"cpu"}
        device = "cuda" if "cuda" in devices else "cpu"
        return {**machine.describe(device), "quick": self.quick, "ceilings": self._ceilings}
