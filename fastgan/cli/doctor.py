"""fastgan doctor"""

from __future__ import annotations

from fastgan.cli._common import no_more
from fastgan.doctor import report


def run(arguments: list[str]) -> int:
    no_more("doctor", arguments)
    print(report())
    return 0
