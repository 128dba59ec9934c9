"""Interleaved timing: every round times each candidate once, so that a slow spell of the machine
falls on all of them, and ratios are taken within a round."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from statistics import median, quantiles
from typing import NamedTuple

Times = dict[str, list[float]]
Clock = Callable[[Callable[[], object]], float]

RESAMPLES = 1000
CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A median and the bounds of its confidence interval."""

    value: float
    low: float
    high: float


def host_clock(run: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def own_clock(run: Callable[[], object]) -> float:
    """Seconds of a candidate that times itself, which is what it returns."""
    return float(run())  # type: ignore[arg-type]


def interleave(
    candidates: dict[str, Callable[[], object]],
    rounds: int,
    warm_up: int = 3,
    clock: Clock = host_clock,
) -> Times:
    """Seconds of every round, by candidate. The order turns from round to round."""

    def ready(call: Callable[[], object]) -> Callable[[int], Callable[[], object]]:
        return lambda _turn: call

    turns = {name: ready(call) for name, call in candidates.items()}
    return take_turns(turns, rounds, warm_up, clock)


def take_turns(
    candidates: dict[str, Callable[[int], Callable[[], object]]],
    rounds: int,
    warm_up: int = 3,
    clock: Clock = host_clock,
) -> Times:
    """As `interleave`, of candidates that first make ready, untimed: candidate(turn)() is timed.

    `turn` counts the calls of all candidates, so that inputs chosen by it were not used just now.
    """
    times: Times = {name: [] for name in candidates}
    names = list(candidates)
    turn = 0
    for i in range(rounds + warm_up):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            seconds = clock(candidates[name](turn))
            turn += 1
            if i >= warm_up:
                times[name].append(seconds)
    return times


def ratio_interval(peer: Sequence[float], own: Sequence[float]) -> Interval:
    """How many times faster `own` is than `peer`: the median of the rounds' ratios, with its
    bootstrap confidence interval (percentiles of resampled rounds; Efron 1979)."""
    return median_interval([p / o for p, o in zip(peer, own, strict=True)])


def median_interval(values: Sequence[float]) -> Interval:
    """The median and its bootstrap confidence interval; the same for the same values."""
    draw = random.Random(0)
    medians = sorted(median(draw.choices(values, k=len(values))) for _ in range(RESAMPLES))
    outside = round((1 - CONFIDENCE) / 2 * RESAMPLES)
    return Interval(median(values), medians[outside], medians[-1 - outside])


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """The 5th, 20th, 50th, 80th and 95th percentile."""
    if len(values) == 1:
        values = [*values, *values]
    cuts = quantiles(values, n=100, method="inclusive")
    return {f"p{p}": cuts[p - 1] for p in (5, 20, 50, 80, 95)}
