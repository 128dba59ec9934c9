"""One case, measured: every implementation that can run and is right, in turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch

from bench.harness.case import BACKWARD, Case
from bench.harness.clock import clock_of
from bench.harness.cost import Cost
from bench.harness.memory import peak_bytes, saved_sizes
from bench.harness.parity import Reference
from bench.harness.results import Row
from bench.harness.workload import Run, Work
from bench.paired import Times, percentiles, ratio_interval, take_turns
from fastgan.ops.conv.timing import captured
from fastgan.system import first_line

Candidates = dict[str, Callable[[int], Callable[[], object]]]
GRAPHED = ", replayed"  # an implementation inside a CUDA graph


@dataclass(frozen=True)
class Plan:
    """How long to measure: rounds until `seconds` have passed, at least and at most so many."""

    seconds: float = 4.0
    least: int = 7
    most: int = 60


QUICK = Plan(seconds=0.8, least=5, most=25)


@dataclass
class Measurement:
    """Times by implementation; why others have none."""

    case: Case
    cost: Cost | None
    own: list[str]
    times: Times
    left_out: dict[str, str]
    memory: dict[str, Row] = field(default_factory=dict)
    sets: int = 1

    def rows(self, ceilings: dict[str, float]) -> list[Row]:
        return [self._row(name, ceilings) for name in (*self.times, *self.left_out)]

    def _row(self, name: str, ceilings: dict[str, float]) -> Row:
        row: Row = {"kind": "case", "case": self.case._asdict(), "implementation": name}
        row["own"] = name in self.own
        if name in self.left_out:
            return {**row, "left_out": self.left_out[name]}
        seconds = self.times[name]
        row |= {"rounds": len(seconds), "input_sets": self.sets, "seconds": percentiles(seconds)}
        # How many times faster each of ours is than this one, within the rounds.
        row["ratio"] = {
            own: list(ratio_interval(seconds, self.times[own]))
            for own in self.own
            if own != name and own in self.times
        }
        row |= self.memory.get(name, {})
        if self.cost is not None:
            # Without a faster unit, work at a lower precision may reach float32's rate.
            operations = max(ceilings["float32"], ceilings.get(self.case.dtype, 0.0))
            bound = self.cost.bound(operations, ceilings["bytes"])
            counted = {"bytes": self.cost.moved, "operations": self.cost.operations}
            row |= {name: count for name, count in counted.items() if count}
            row["share_of_roofline"] = bound / row["seconds"]["p50"]
        return row


def measure(work: Work, plan: Plan) -> Measurement:
    """Check, then time. What cannot run or is wrong is left out, with the reason.

    Peak memory and saved bytes are taken once, before the clock starts.
    """
    runners, left_out = _built(work)
    found = Measurement(work.case, work.cost, work.own, {}, left_out, sets=work.sets)
    for name, runner in runners.items():
        found.memory[name] = {
            "peak_bytes": peak_bytes(runner.ready(0), work.case.device),
            "saved_bytes": sum(saved_sizes(partial(runner.forward, 0), runner.parameters)),
        }
    candidates: Candidates = {name: runner.ready for name, runner in runners.items()}
    if work.case.device == "cuda":
        if work.case.part == BACKWARD:
            reason = "its forward cannot be kept out of the graph"
            found.left_out |= {name + GRAPHED: reason for name in runners}
        else:
            candidates |= _replayed(runners, work.sets, found)
    if candidates:
        found.times = _timed(candidates, plan, work.case.device)
    for name in [n for n in found.times if n.endswith(GRAPHED)]:
        # One replay goes through all sets.
        found.times[name] = [t / work.sets for t in found.times[name]]
        if name.removesuffix(GRAPHED) in work.own:
            found.own.append(name)
    return found


def _built(work: Work) -> tuple[dict[str, Run], dict[str, str]]:
    """The implementations that can run and whose results on every set are right."""
    runners: dict[str, Run] = {}
    left_out: dict[str, str] = {}
    for name in work.implementations:
        if (reason := work.why_not(name)) is not None:
            left_out[name] = reason
            continue
        try:
            runner = work.runner(name)
            runner.results(0)
            runners[name] = runner
        except Exception as error:  # a peer's build may fail in any way: the table says how
            left_out[name] = f"{type(error).__name__}: {first_line(error)[:200]}"
    for i in range(work.sets):
        reference = Reference(work, i)
        for name in list(runners):
            wrong = reference.why_refused(runners[name].results(i))
            if wrong is not None:
                left_out[name] = f"refused: on input set {i}, {wrong}"
                del runners[name]
    return runners, left_out


def _timed(candidates: Candidates, plan: Plan, device: str) -> Times:
    clock = clock_of(device)
    started = time.perf_counter()
    take_turns(candidates, rounds=1, warm_up=1, clock=clock)
    round_seconds = (time.perf_counter() - started) / 2
    rounds = min(plan.most, max(plan.least, int(plan.seconds / round_seconds)))
    return take_turns(candidates, rounds, 1, clock)


def _replayed(runners: dict[str, Run], sets: int, found: Measurement) -> Candidates:
    """Each implementation's calls on all sets as one CUDA graph, where it can be captured."""
    graphs: Candidates = {}
    for name, runner in runners.items():
        if "graphs" in name:  # a compiler that captures by itself
            continue

        def every_set(runner: Run = runner) -> object:
            return [runner.ready(i)() for i in range(sets)]

        try:
            graph = captured(name, every_set, torch.device("cuda"))
            graphs[name + GRAPHED] = lambda _turn, graph=graph: graph.replay  # type: ignore[misc]
        except RuntimeError as error:
            found.left_out[name + GRAPHED] = first_line(error)[:200]
    return graphs
