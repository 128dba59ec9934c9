"""Intervals between checkpoints and grids: a number of steps, or a time."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import NamedTuple

from fastgan.engine.distributed import DistributedGroup

MAX_STEPS = 10**9
"""Where a number of steps stands for "never", it is beyond the longest run."""
_MAX_SECONDS = 366 * 24 * 3600.0
_UNITS = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}
_TIME = re.compile(r"(\d+(?:\.\d*)?)\s*([a-z]+)")


class Interval(NamedTuple):
    """So many steps, or so many seconds; both 0 is never."""

    steps: int = 0
    seconds: float = 0.0

    @property
    def on(self) -> bool:
        """Whether it is ever over."""
        return bool(self.steps or self.seconds)


def parse_interval(name: str, value: object) -> Interval:
    """An interval as a configuration holds it: 500 (steps), "500", "90s", "10min", "1h 30min".

    Raises:
        TypeError, ValueError: neither, or out of range; the message names ``name``.
    """
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise ValueError(f"{name} must be at least 0, got {value}")
        if value > MAX_STEPS:
            raise ValueError(f"{name} must be at most {MAX_STEPS}, got {value}")
        return Interval(steps=value)
    expected = f"{name} must be a number of steps, or a time such as 90s, 10min or 1h 30min"
    if not isinstance(value, str):
        raise TypeError(f"{expected}; got {value!r} of type {type(value).__name__}")
    parts = _TIME.findall(value.lower())
    rest = _TIME.sub("", value.lower()).strip()
    if not parts or rest or any(unit not in _UNITS for _, unit in parts):
        raise ValueError(f"{expected}; got {value!r}")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not 0 < seconds <= _MAX_SECONDS:
        raise ValueError(f"{name} must lie between 0 seconds and a year, got {value!r}")
    return Interval(seconds=seconds)


class Clock:
    """When things are due, from now on.

    Args:
        intervals: by their names.
        group: a time is that of its first process's clock.
    """

    def __init__(self, intervals: Mapping[str, Interval], group: DistributedGroup) -> None:
        self._intervals, self._group = intervals, group
        self._last = dict.fromkeys(intervals, time.monotonic())

    def due(self, name: str, step: int, *, together: bool) -> bool:
        """Whether ``name`` is due after ``step``; all processes must ask.

        ``together``: they meet here anyway. Where they do not, no time is over.
        """
        every = self._intervals[name]
        if every.steps:
            return step % every.steps == 0
        if not every.seconds or not (together or self._group.size == 1):
            return False
        now = time.monotonic()
        due = self._group.from_first(lambda: now - self._last[name] >= every.seconds)
        if due:
            self._last[name] = now
        return due
