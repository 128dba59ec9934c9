"""Interleaving, ratios and their intervals, on clocks that tell what they are told."""

from __future__ import annotations

from itertools import count

from bench.paired import (
    interleave,
    median_interval,
    percentiles,
    ratio_interval,
    take_turns,
)


def test_every_round_times_each_candidate_and_the_order_turns():
    called = []
    runs = {name: lambda name=name: called.append(name) for name in "abc"}
    times = interleave(runs, rounds=3, warm_up=1, clock=lambda run: run() or 1.0)
    assert {name: len(t) for name, t in times.items()} == {"a": 3, "b": 3, "c": 3}
    assert "".join(called) == "abc" + "bca" + "cab" + "abc"


def test_turns_count_all_calls_and_making_ready_is_not_timed():
    turns, timed = [], []

    def ready(turn):
        turns.append(turn)
        return lambda: timed.append(len(turns))

    take_turns({"a": ready, "b": ready}, 2, 0, clock=lambda run: run() or 1.0)
    assert turns == [0, 1, 2, 3]
    assert timed == [1, 2, 3, 4]


def test_a_slow_spell_falls_on_both_and_leaves_the_ratio():
    ticks = count()

    def clock(run):
        slow = 10 if next(ticks) // 2 in (3, 4) else 1  # two rounds of six
        return run() * slow

    times = interleave({"own": lambda: 1.0, "peer": lambda: 3.0}, 6, 0, clock)
    assert ratio_interval(times["peer"], times["own"]) == (3.0, 3.0, 3.0)


def test_an_interval_holds_the_median_repeats_and_narrows():
    few = [1.0 + 0.1 * (i % 10) for i in range(10)]
    many = few * 20
    wide, narrow = median_interval(few), median_interval(many)
    assert wide == median_interval(few)
    for low_to_high in (wide, narrow):
        assert low_to_high.low <= low_to_high.value <= low_to_high.high
    assert narrow.high - narrow.low < wide.high - wide.low


def test_percentiles():
    found = percentiles([float(i) for i in range(101)])
    assert found == {"p5": 5.0, "p20": 20.0, "p50": 50.0, "p80": 80.0, "p95": 95.0}
    assert percentiles([2.0])["p95"] == 2.0
