"""fastgan compare RUN RUN..."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from fastgan.cli._common import parse
from fastgan.cli._output import output_file
from fastgan.engine.report.comparing import comparison, comparison_page, labels_of
from fastgan.engine.report.record import read_record
from fastgan.system import whole_file


@dataclass(frozen=True)
class Arguments:
    """Runs side by side: the best scores, speed, and the settings that differ. Scores of other
    features, data or counts are refused."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Their folders, two or more."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Also write an HTML page with curves and samples."""
    force: bool = False
    """Write over the file that stands there."""


def run(arguments: list[str]) -> int:
    chosen = parse(Arguments, arguments, prog="fastgan compare")
    runs = [read_record(path) for path in chosen.runs]
    tables = comparison(runs)
    out = None if chosen.out is None else output_file(chosen.out, chosen.force)
    console = Console(highlight=False)
    for title, rows in tables.items():
        shown = Table(title, *labels_of(runs), box=None, padding=(0, 2, 0, 0), header_style="bold")
        for row in rows:
            shown.add_row(*row)
        console.print(shown if rows else f"{title}: no difference")
    if out is not None:
        with whole_file(out) as file:
            file.write(comparison_page(runs).encode())
        print(chosen.out)
    return 0
