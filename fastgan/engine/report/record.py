"""What a run's folder tells of it, whether it has ended, was killed, or still goes on."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastgan.engine import records
from fastgan.engine.log import read_scores
from fastgan.engine.run_folder import METRICS_FILE, SCORES_FILE, read_run
from fastgan.engine.spent import PREFIX
from fastgan.metrics import LOWER_IS_BETTER, Score

Points = list[tuple[float, float]]
"""Steps and values; a value that is not finite is NaN."""

_LINE = records.record({"step": records.whole()})
_PICTURE = re.compile(r"(step|reconstructions)-(\d{8,})\.png")


@dataclass(frozen=True)
class RunRecord:
    """A run as its files have it; what is not there is empty."""

    path: Path
    facts: dict[str, Any]
    lines: list[dict[str, Any]]
    evaluations: list[tuple[int, list[Score]]]
    pictures: dict[str, list[tuple[int, Path]]]
    """By "step" (sample grids) and "reconstructions": their steps and files."""

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def config(self) -> dict[str, Any]:
        return self.facts.get("config", {})

    @property
    def finished(self) -> bool:
        return bool(self.facts.get("finished"))

    @property
    def step(self) -> int:
        """Of the newest line."""
        return int(self.lines[-1]["step"]) if self.lines else 0

    def series(self, name: str) -> Points:
        """The values of a name in ``metrics.jsonl``."""
        return [(line["step"], _number(line[name])) for line in self.lines if name in line]

    def names(self, start: str) -> list[str]:
        """The names in ``metrics.jsonl`` that start so, in the order of their appearance."""
        return list(dict.fromkeys(n for line in self.lines for n in line if n.startswith(start)))

    def scores(self) -> dict[str, list[tuple[int, Score]]]:
        """The evaluations by metric."""
        found: dict[str, list[tuple[int, Score]]] = {}
        for step, scores in self.evaluations:
            for score in scores:
                found.setdefault(score.metric, []).append((step, score))
        return found

    def best(self, metric: str) -> tuple[int, Score] | None:
        """The best evaluation of a metric and its step; None without one that is finite."""
        sign = -1 if metric in LOWER_IS_BETTER else 1
        finite = [e for e in self.scores().get(metric, []) if math.isfinite(e[1].value)]
        return max(finite, key=lambda e: sign * e[1].value, default=None)

    def seconds(self) -> float:
        """Time trained until the newest line, over all times that the run was started."""
        total = last = 0.0
        for _, now in self.series("seconds"):
            total += now - last if now >= last else now
            last = now
        return total

    def spent(self) -> dict[str, float]:
        """Seconds by what they went into; "other" is what nothing counts."""
        parts = {
            name.removeprefix(PREFIX): sum(v for _, v in self.series(name) if math.isfinite(v))
            for name in self.names(PREFIX)
        }
        rest = self.seconds() - sum(parts.values())
        return parts | ({"other": rest} if parts and rest > 0 else {})


def read_record(path: str | Path) -> RunRecord:
    """The run in a folder. Lines that cannot be read are left out.

    Raises:
        FileNotFoundError: no run stands there.
        ValueError: its ``run.json`` is damaged.
    """
    path = Path(path)
    facts = read_run(path)
    if facts is None:
        raise FileNotFoundError(f"no run at {path}: it has no run.json")
    pictures: dict[str, list[tuple[int, Path]]] = {}
    for file in sorted((path / "samples").glob("*.png")):
        if named := _PICTURE.fullmatch(file.name):
            pictures.setdefault(named[1], []).append((int(named[2]), file))
    lines = _lines(path / METRICS_FILE)
    return RunRecord(path, facts, lines, read_scores(path / SCORES_FILE), pictures)


def _lines(path: Path) -> list[dict[str, Any]]:
    found = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            values = records.parse(line)
            _LINE(values, "")
        except records.RecordError:
            continue
        found.append(values)
    return found


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan
