"""Where a run's time goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

PREFIX = "seconds_"
"""Of the names in ``metrics.jsonl``: ``seconds_step`` and the like, since the line before."""


class Spent:
    """Seconds of the loop's thread by what they went into, since they were last taken.

    On a GPU a step is launched and not waited for: what it takes there is waited for in ``log``.
    """

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Counts what is done inside."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[what] += time.perf_counter() - started

    def take(self) -> dict[str, float]:
        """The seconds by ``PREFIX`` and name; counting starts anew."""
        taken = {f"{PREFIX}{name}": round(seconds, 4) for name, seconds in self._seconds.items()}
        self._seconds.clear()
        return taken
