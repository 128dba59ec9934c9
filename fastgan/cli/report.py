"""fastgan report RUN"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fastgan.cli._common import parse
from fastgan.cli._output import output_file
from fastgan.engine.report import write_report


@dataclass(frozen=True)
class Arguments:
    """Write a run on one HTML page that needs nothing beside it: curves, samples over time, scores,
    where the time went, settings, and what to try. The run may still go on."""

    run: tyro.conf.Positional[Path]
    """The run's folder."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """The file to write; by default report.html in the run's folder, which is written over."""
    force: bool = False
    """Write over the file that stands in --out."""


def run(arguments: list[str]) -> int:
    chosen = parse(Arguments, arguments, prog="fastgan report")
    out = None if chosen.out is None else output_file(chosen.out, chosen.force)
    written = write_report(chosen.run, out)
    print(chosen.out or written)
    return 0
