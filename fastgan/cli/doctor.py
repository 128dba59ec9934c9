"""fastgan doctor"""

from __future__ import annotations

from dataclasses import dataclass

from fastgan.cli._common import parse
from fastgan.doctor import paste_ready, report


@dataclass(frozen=True)
class Arguments:
    """Versions, devices, which backends can run here and why not the others, and what is wrong with
    this machine's setup, each with what mends it."""

    report: bool = False
    """Print all of it, with the system and the environment, as a block to paste into an issue."""


def run(arguments: list[str]) -> int:
    chosen = parse(Arguments, arguments, prog="fastgan doctor")
    print(paste_ready() if chosen.report else report())
    return 0
