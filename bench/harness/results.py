"""Results as JSON lines: the first line tells of the run, each other one of one thing measured."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bench.harness.machine import ROOT

Row = dict[str, Any]
FOLDER = ROOT / "bench" / "results"
SCHEMA = 1


def write(path: Path, run: Row, rows: Iterable[Row]) -> None:
    """Write a run; whatever stood there is replaced in one go."""
    lines = [{"kind": "run", "schema": SCHEMA, **run}, *rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".tmp")
    fresh.write_text("".join(json.dumps(_rounded(line)) + "\n" for line in lines))
    fresh.replace(path)


def read(path: Path) -> tuple[Row, list[Row]]:
    """The run and its rows. ValueError for a file that is none, OSError for one that is not there.

    A folder's files are read as one run, the first file's.
    """
    files = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path}: there are no results (*.jsonl) in this folder")
    runs, rows = [], []
    for file in files:
        first, *rest = _lines(file)
        if first.get("kind") != "run" or first.get("schema") != SCHEMA:
            raise ValueError(f"{file}: the first line is not a run of schema {SCHEMA}")
        runs.append(first)
        rows += rest
    return runs[0], rows


def _lines(file: Path) -> Iterator[Row]:
    text = file.read_text().splitlines()
    if not text:
        raise ValueError(f"{file}: empty")
    for number, line in enumerate(text, 1):
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}, line {number}: {error}") from None


def identity(row: Row) -> Row:
    """What a row of any kind tells of: measured again, it takes the place of the row before."""
    return {k: v for k, v in row.items() if k == "case" or isinstance(v, str)}


def _rounded(value: Any) -> Any:
    """Numbers to five significant digits: the rest is noise, and files are read by people."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(v) for v in value]
    return value
