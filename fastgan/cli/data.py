"""fastgan data fetch NAME"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from fastgan.cli._common import parse
from fastgan.data.fetch import fetch


@dataclass(frozen=True)
class Arguments:
    """Download a data set, verified by checksum."""

    name: tyro.conf.Positional[str]
    """mnist or fashion-mnist."""
    root: Path | None = None
    """Where data sets are kept; by default $FASTGAN_DATA or the user's cache folder."""


def run(arguments: list[str]) -> int:
    if not arguments or arguments[0] != "fetch":
        raise ValueError("usage: fastgan data fetch mnist|fashion-mnist [--root FOLDER]")
    chosen = parse(Arguments, arguments[1:], prog="fastgan data fetch")
    print(fetch(chosen.name, chosen.root))
    return 0
