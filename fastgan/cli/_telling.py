"""What a command tells a person on standard error: warnings, progress, and in detail if asked."""

from __future__ import annotations

import logging
import resource
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from fastgan.system import how_far, listening

# After which something has taken long, and between two looks at it.
_LONG, _OFTEN = 2.0, 0.1


@contextmanager
def telling(command: str, verbose: bool) -> Iterator[None]:
    """Inside, a warning is one line, told once. Where standard error is a terminal, a line says how
    far something is that takes longer than two seconds. ``verbose``: what was chosen, and why, as
    the loggers of fastgan have it; warnings with their place; time and memory in the end.
    """
    with ExitStack() as stack:
        stack.enter_context(_in_detail(command) if verbose else _short_warnings())
        if sys.stderr.isatty():
            stack.enter_context(listening(line := Line()))
            stack.callback(line.clear)
        yield


class Line:
    """A line on standard error that is written over."""

    def __init__(self) -> None:
        self._what = ""
        self._began = self._shown = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self._what:
            self.clear()
            self._what, self._began = what, now
        if now - self._began >= _LONG and now - self._shown >= _OFTEN:
            self._shown = now
            sys.stderr.write(f"\r{what} {how_far(done, total)}\x1b[K")
            sys.stderr.flush()
        if total and done >= total:
            self.clear()

    def clear(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
        self._what, self._shown = "", 0.0


@contextmanager
def _short_warnings() -> Iterator[None]:
    seen: set[str] = set()

    def short(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        line: str | None = None,
    ) -> str:
        text = str(message)
        # Pillow's own, of what max_pixels decides and is told of.
        if text in seen or category.__name__ == "DecompressionBombWarning":
            return ""
        seen.add(text)
        return f"warning: {text}\n"

    before = warnings.formatwarning
    warnings.formatwarning = short
    try:
        yield
    finally:
        warnings.formatwarning = before


@contextmanager
def _in_detail(command: str) -> Iterator[None]:
    started, handler = time.monotonic(), logging.StreamHandler()
    logger = logging.getLogger("fastgan")
    level = logger.level
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        unit = 1e9 if sys.platform == "darwin" else 1e6  # bytes, elsewhere kB
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
        seconds = time.monotonic() - started
        logger.debug("%s took %.1f s, and %.2f GB of memory at most", command, seconds, memory)
        logger.setLevel(level)
        logger.removeHandler(handler)
