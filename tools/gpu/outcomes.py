"""Outcomes of tests, a line each: what a run that is cut has, and goes on from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

LEFT = "left"  # not begun for want of time


@dataclass
class Outcomes:
    """The file, and the code that its lines are of."""

    path: Path
    source: str

    def begin(self, go_on: bool) -> None:
        """Start the file, unless it is of the same code and to be gone on with."""
        first = f"source {self.source}\n"
        if go_on and self.path.exists() and self.path.read_text(encoding="utf-8").startswith(first):
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(first, encoding="utf-8")

    def read(self) -> dict[str, str]:
        return read(self.path)

    def finished(self) -> list[str]:
        return [test for test, outcome in self.read().items() if outcome != LEFT]


def read(path: Path) -> dict[str, str]:
    """The newest outcome of every test: passed, skipped, failed, left, or begun if it never ended.

    A line that was cut while it was written counts for nothing.
    """
    found: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        outcome, _, rest = line.partition(" ")
        _, _, test = rest.strip().partition(" ")
        if test:
            found[test] = outcome
    return found
