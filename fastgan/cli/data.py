"""fastgan data fetch NAME, fastgan data check PATH"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from fastgan.cli._common import parse, wants_help
from fastgan.data.options import MAX_PIXELS

_USAGE = (
    "usage: fastgan data fetch mnist|fashion-mnist [--root FOLDER], or "
    "fastgan data check PATH [--max-pixels N]"
)


@dataclass(frozen=True)
class Fetch:
    """Download a data set, verified by checksum."""

    name: tyro.conf.Positional[str]
    """mnist or fashion-mnist."""
    root: Path | None = None
    """Where data sets are kept; by default $FASTGAN_DATA or the user's cache folder."""


@dataclass(frozen=True)
class Check:
    """Read a data set once and say what it holds: sizes, modes, channels, classes, duplicates, and
    what cannot be read."""

    source: tyro.conf.Positional[str]
    """What --data takes: a folder or zip of images, shards, arrays, mnist5k."""
    max_pixels: int = MAX_PIXELS
    """Files with more pixels count as unreadable, as in training."""


def run(arguments: list[str]) -> int:
    command, rest = arguments[:1], arguments[1:]
    if command == ["fetch"]:
        from fastgan.data.fetch import fetch

        fetched = parse(Fetch, rest, prog="fastgan data fetch")
        print(fetch(fetched.name, fetched.root))
    elif command == ["check"]:
        from fastgan.data.check import check_data

        checked = parse(Check, rest, prog="fastgan data check")
        print(check_data(checked.source, max_pixels=checked.max_pixels).text())
    elif wants_help(arguments):
        print(_USAGE)
    else:
        raise ValueError(_USAGE)
    return 0
