"""Benchmarks run only when asked for, by --benchmark (or --benchmark-only): they want a quiet
machine. Results are written as JSON lines when the run ends."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.harness.case import Case
from bench.harness.machine import in_words, slug
from bench.harness.measure import Work
from bench.harness.results import FOLDER
from bench.harness.session import Session
from bench.harness.table import render

HERE = Path(__file__).resolve().parent

# For tests that run on either.
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
        ],
    ),
]
Compared = Callable[[Case, str, Callable[[Case], Work]], None]
SESSION = pytest.StashKey[Session]()


class Replay:
    """A clock that shows times which were taken already: pytest-benchmark then reports the rounds
    of the interleaved run instead of rounds of its own."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, times: Iterator[float]) -> None:
        self.now += next(times)


CLOCK = Replay()


def asked_for(config: pytest.Config) -> bool:
    return bool(config.getoption("--benchmark") or config.getoption("benchmark_only", False))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # These have the process keep freed memory, as fastgan train does; it cannot be taken back.
    items.sort(key=lambda item: item.path.stem in ("test_engine", "test_train_command"))
    if config.getoption("--time-limit") is not None:
        # What is cut off in the end should be the least telling.
        items.sort(key=lambda item: item.get_closest_marker("full") is not None)
    for item in items:
        if HERE not in item.path.parents:
            continue
        if not asked_for(config):
            item.add_marker(pytest.mark.skip(reason="a benchmark: run with --benchmark"))
        elif config.getoption("--quick") and item.get_closest_marker("full"):
            item.add_marker(pytest.mark.skip(reason="left out of --quick"))
        if config.pluginmanager.hasplugin("benchmark") and "compared" in item.fixturenames:
            item.add_marker(pytest.mark.benchmark(timer=CLOCK))


@pytest.fixture(scope="session")
def suite(request: pytest.FixtureRequest) -> Session:
    """The run, into which a test may put rows of its own."""
    config = request.config
    if SESSION not in config.stash:
        folder = config.getoption("--results")
        if config.getoption("--keep"):
            folder = FOLDER / slug("cuda" if torch.cuda.is_available() else "cpu")
        limit = config.getoption("--time-limit")
        deadline = math.inf if limit is None else time.monotonic() + limit
        config.stash[SESSION] = Session(
            folder, config.getoption("--quick"), deadline, config.getoption("--continue")
        )
    return config.stash[SESSION]


@pytest.fixture
def compared(request: pytest.FixtureRequest, suite: Session, benchmark: Any) -> Compared:
    """compared(case, implementation, make): this implementation's times of a case.

    The first implementation's test measures all of them, interleaved. Skips, with the reason, one
    that cannot run; fails for one of ours that is wrong.
    """

    def report(case: Case, implementation: str, make: Callable[[Case], Work]) -> None:
        module = request.path.stem.removeprefix("test_")
        if (reason := suite.why_not(module, case)) is not None:
            if hasattr(benchmark, "skipped"):
                benchmark.skipped = True
            pytest.skip(reason)
        found = suite.measurement(module, case, make)
        if implementation not in found.times:
            if hasattr(benchmark, "skipped"):
                benchmark.skipped = True
            reason = found.left_out.get(implementation, "left out of --quick")
            if implementation in found.own:
                pytest.fail(reason)
            pytest.skip(f"{implementation}: {reason}")
        times = found.times[implementation]
        if benchmark is None:
            return
        benchmark.group = f"{case.group}, {case.variant}"
        benchmark.name = implementation
        benchmark.pedantic(CLOCK.advance, args=(iter(times),), rounds=len(times))

    return report


class WithoutPlugin:
    """Lets the suite run, and write its results, where pytest-benchmark is not installed."""

    @pytest.fixture
    def benchmark(self) -> None:
        return None


def pytest_configure(config: pytest.Config) -> None:
    if not config.pluginmanager.hasplugin("benchmark"):
        config.pluginmanager.register(WithoutPlugin())


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    session = config.stash.get(SESSION, None)
    if session is None or not session.rows:
        return
    terminalreporter.section("fastgan")
    every = [row for rows in session.rows.values() for row in rows]
    terminalreporter.write_line(in_words(session.run(every)))
    terminalreporter.write_line(render(session.measured, session.known_ceilings))
    for module in session.rows:
        terminalreporter.write_line(f"results: {session.path(module)}")
