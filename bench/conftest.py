"""Benchmarks run only when asked for, by --benchmark: they want a quiet machine.

What was measured is on disk, as JSON lines, as soon as it was; its tables are printed at the end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.harness import drafts, page
from bench.harness.case import Case
from bench.harness.machine import in_words, slug
from bench.harness.measure import QUICK, Plan
from bench.harness.results import FOLDER
from bench.harness.session import Session
from bench.harness.workload import Work

HERE = Path(__file__).resolve().parent

GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
DEVICES = ["cpu", pytest.param("cuda", marks=GPU)]  # for tests that run on either
Compared = Callable[[Case, Callable[[Case], Work]], None]
SESSION = pytest.StashKey[Session]()


def on_devices(cases: Callable[[str], list[Case]], quick: Callable[[Case], bool]) -> Any:
    """Parametrizes `case` by the cases of each device; all but the quick ones are `full`."""
    found = []
    for device in ("cpu", "cuda"):
        for case in cases(device):
            marks = [] if quick(case) else [pytest.mark.full]
            marks += GPU if device == "cuda" else []
            found.append(pytest.param(case, marks=marks, id=f"{case} {device}"))
    return pytest.mark.parametrize("case", found)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # This has the process keep freed memory, as fastgan train does; it cannot be taken back.
    items.sort(key=lambda item: item.path.stem == "test_train_command")
    if config.getoption("--time-limit") is not None:
        # What is cut off in the end should be the least telling.
        items.sort(key=lambda item: item.get_closest_marker("full") is not None)
    for item in items:
        if HERE not in item.path.parents:
            continue
        if not config.getoption("--benchmark"):
            item.add_marker(pytest.mark.skip(reason="a benchmark: run with --benchmark"))
        elif config.getoption("--quick") and item.get_closest_marker("full"):
            item.add_marker(pytest.mark.skip(reason="left out of --quick"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Says how long it will take, as far as that is known before."""
    config = session.config
    waiting = [i for i in session.items if HERE in i.path.parents and not _is_skipped(i)]
    if config.getoption("--benchmark") and waiting:
        plan = QUICK if config.getoption("--quick") else Plan()
        minutes = math.ceil(len(waiting) * plan.seconds / 60)
        told = f"{len(waiting)} cases of {plan.seconds:g} s: about {minutes} min of rounds"
        config.get_terminal_writer().line(f"{told}, and what is compiled for them")


def _is_skipped(item: pytest.Item) -> bool:
    marks = item.iter_markers("skipif")
    return any(item.iter_markers("skip")) or any(mark.args and mark.args[0] for mark in marks)


@pytest.fixture(scope="session")
def suite(request: pytest.FixtureRequest) -> Session:
    """The run, into which a test may put rows of its own."""
    config = request.config
    if SESSION not in config.stash:
        keep = config.getoption("--keep")
        kept = FOLDER / slug("cuda" if torch.cuda.is_available() else "cpu") if keep else None
        limit = config.getoption("--time-limit")
        config.stash[SESSION] = Session(
            drafts.folder_of(kept) if kept else config.getoption("--results"),
            kept,
            config.getoption("--quick"),
            math.inf if limit is None else time.monotonic() + limit,
            config.getoption("--continue") or keep,
        )
    return config.stash[SESSION]


@pytest.fixture
def compared(request: pytest.FixtureRequest, suite: Session) -> Compared:
    """compared(case, make): every implementation's times of a case, interleaved.

    One that cannot run is left out with its reason; one of ours that is wrong fails the test.
    """

    def measure(case: Case, make: Callable[[Case], Work]) -> None:
        module = request.path.stem.removeprefix("test_")
        if (reason := suite.why_not(module, case)) is not None:
            pytest.skip(reason)
        found = suite.measure(module, case, make)
        wrong = [f"{name}: {found.left_out[name]}" for name in found.own if name in found.left_out]
        assert not wrong, "\n".join(wrong)

    return measure


def pytest_terminal_summary(
    terminalreporter: Any, exitstatus: pytest.ExitCode, config: pytest.Config
) -> None:
    session = config.stash.get(SESSION, None)
    if session is None:
        return
    terminalreporter.section("fastgan")
    for module, rows in session.rows.items():
        devices = {row["case"]["device"] for row in rows if "case" in row} or {"cpu"}
        run = session.run(max(devices))
        terminalreporter.write_line(f"{module}: {in_words(run)}")
        terminalreporter.write_line(page.tables([page.Run("", module, run, rows)]))
    by_name = config.option.keyword or config.option.markexpr or config.option.deselect
    whole = not by_name and [Path(arg).resolve() for arg in config.args] == [HERE]
    for line in session.finish(exitstatus == pytest.ExitCode.OK, whole):
        terminalreporter.write_line(line)
