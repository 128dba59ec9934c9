"""Interleaved timing: every round times each candidate once, so that a slow spell of the machine
falls on all of them, and ratios are taken within a round."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from statistics import median

Times = dict[str, list[float]]


def interleave(candidates: dict[str, Callable[[], object]], rounds: int, warm_up: int = 3) -> Times:
    """Seconds of every round, by candidate. The order turns from round to round."""
    times: Times = {name: [] for name in candidates}
    names = list(candidates)
    for i in range(rounds + warm_up):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            start = time.perf_counter()
            candidates[name]()
            if i >= warm_up:
                times[name].append(time.perf_counter() - start)
    return times


def ratio(times: Times, peer: str, own: str) -> float:
    """How many times faster `own` is than `peer`: the median over the rounds."""
    return median(p / o for p, o in zip(times[peer], times[own], strict=True))


def geometric_mean(values: Iterable[float]) -> float:
    logs = [math.log(v) for v in values]
    return math.exp(sum(logs) / len(logs))
