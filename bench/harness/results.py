"""Results as JSON lines: the first line tells of the run, each other one of one thing measured."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.harness.machine import ROOT
from fastgan.system import whole_file

Row = dict[str, Any]
FOLDER = ROOT / "bench" / "results"
SCHEMA = 1


def write(path: Path, run: Row, rows: Iterable[Row]) -> None:
    """Write a run; whatever stood there is replaced in one go. Numbers have five significant
    digits: the rest is noise, and files are read by people."""
    lines = [json.dumps(line) for line in ({"kind": "run", "schema": SCHEMA, **run}, *rows)]
    rounded = [json.loads(line, parse_float=lambda x: float(f"{float(x):.5g}")) for line in lines]
    with whole_file(path) as file:
        file.write("".join(json.dumps(line) + "\n" for line in rounded).encode())


def read(path: Path) -> tuple[Row, list[Row]]:
    """The run and its rows. ValueError for a file that is none, OSError for a missing one."""
    lines = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    if not lines or lines[0].get("kind") != "run" or lines[0].get("schema") != SCHEMA:
        raise ValueError(f"{path}: the first line is not a run of schema {SCHEMA}")
    return lines[0], lines[1:]


def identity(row: Row) -> Row:
    """What a row of any kind tells of: measured again, it takes the place of the row before."""
    told = {k: v for k, v in row.items() if k == "case" or isinstance(v, str)}
    told.pop("left_out", None)  # a reason, which is a result
    return told
