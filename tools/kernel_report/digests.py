"""Which rows of the committed report need no compiling: those that a committed digest stands for.

A digest covers what the figures of a job's rows follow from and the figures themselves, so rows of
other sources are compiled again, and so is one that was edited by hand.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from .compare import Row, Section, Select


class Job(NamedTuple):
    """What a digest stands for.

    key: of the row that comes of it; ("", "", target): of every row of a target. inputs: a digest
    of all that the rows follow from. units: what the part compiles, one by one.
    """

    key: tuple[str, str, str]
    inputs: str
    units: tuple[Any, ...]

    @property
    def label(self) -> str:
        return self.key[0] or self.key[2]


class Made(NamedTuple):
    """The selected rows, compiled or known; how many units were not known, sampled, and in all."""

    section: Section
    stale: int
    sampled: int
    units: int

    def __str__(self) -> str:
        return (
            f"compiled {self.stale + self.sampled} of {self.units} with {self.section.toolchain}: "
            f"{self.stale} not known by their digest, {self.sampled} as a sample"
        )


def hashed(*parts: Any) -> str:
    text = "\0".join(part.hex() if isinstance(part, bytes) else str(part) for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def of(job: Job, rows: Iterable[Row]) -> str:
    return hashed(job.inputs, *sorted(rows))


def collect(part: ModuleType, committed: Section | None, select: Select, every: bool) -> Made:
    """Rows of a part: the committed ones where their digest stands and ``every`` is False, save a
    sample of them, which is another for each commit; the rest compiled.
    """
    jobs = part.jobs(select)
    old = _by_job(committed.rows if committed else ())
    known = set().union(*committed.digests.values()) if committed and not every else set()
    standing: list[Any] = []
    stale: list[Any] = []
    rows: dict[tuple[str, str, str], Row] = {}
    for job in jobs:
        stands = of(job, old[job.key]) in known
        (standing if stands else stale).extend(job.units)
        rows |= {row.key: row for row in old[job.key]} if stands else {}
    sample = _sample(standing, part.SAMPLE)
    rows |= {row.key: row for unit in part.compile(stale + sample) for row in unit}
    made = _by_job(rows.values())
    digests: dict[str, set[str]] = defaultdict(set)
    for job in jobs:
        digests[job.label].add(of(job, made[job.key]))
    wanted = tuple(sorted(row for row in rows.values() if select.wants(*row.key)))
    section = Section(part.toolchain(), wanted, {k: frozenset(v) for k, v in digests.items()})
    return Made(section, len(stale), len(sample), sum(len(job.units) for job in jobs))


def _by_job(rows: Iterable[Row]) -> dict[tuple[str, str, str], list[Row]]:
    """Rows by their own key, and by their target's."""
    found = defaultdict(list)
    for row in rows:
        found[row.key].append(row)
        found["", "", row.target].append(row)
    return found


def _sample(units: list[Any], count: int) -> list[Any]:
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    return sorted(units, key=lambda unit: hashed(commit, unit))[:count]
