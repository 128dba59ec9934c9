"""Outcomes of tests on a GPU, kept one by one, so that a run may be cut and taken up: a plugin.

    pytest -p tools.gpu.record --record test.txt --before test.before.txt --until 1790000000

Each line of the file is an outcome, its seconds and the test; the first names the code. Tests that
passed before are not run, those that failed before come last, and after `--until` none is begun.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from .outcomes import LEFT, read

OUT_OF_TIME = "out of time"  # how the reason of such a skip begins, a benchmark's own too


def pytest_addoption(parser: Any) -> None:
    parser.addoption("--record", type=Path, metavar="FILE")
    parser.addoption("--before", type=Path, metavar="FILE")
    parser.addoption("--until", type=float, metavar="SECONDS", help="since the epoch")


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    before = read(config.getoption("--before"))
    passed = [item for item in items if before.get(item.nodeid) == "passed"]
    items[:] = [item for item in items if before.get(item.nodeid) != "passed"]
    if passed:
        config.hook.pytest_deselected(items=passed)
    items.sort(key=lambda item: (before.get(item.nodeid) in ("failed", "begun"), rank(item)))


def rank(item: Any) -> tuple[int, int]:
    """The C++ kernels' tests, the other operators', Triton's kernels, then what stands on them.

    Of a sweep, every part of all its tests before the next part of any: each is a sample.
    """
    part = item.callspec.params.get("part", 0) if hasattr(item, "callspec") else 0
    file, _, name = item.nodeid.partition("::")
    if not file.startswith(("tests/ops/", "tests/kernels/")):
        return part, 3
    if file.startswith("tests/kernels/"):
        return part, 2
    return part, 0 if "cuda" in name or "cuda" in file else 1


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: Any) -> None:
    if time.time() > item.config.getoption("--until"):
        pytest.skip(OUT_OF_TIME)


def pytest_runtest_logstart(nodeid: str, location: Any) -> None:
    _write("begun", 0.0, nodeid)


def pytest_runtest_logreport(report: Any) -> None:
    if report.when == "call" or not report.passed:
        out_of_time = report.skipped and OUT_OF_TIME in str(report.longrepr)
        _write(LEFT if out_of_time else report.outcome, report.duration, report.nodeid)


def pytest_runtest_makereport(item: Any, call: Any) -> None:
    """A GPU's context that an error has spoiled fails every later test: the process ends here."""
    if call.when != "call" or call.excinfo is None:
        return
    if (lost := _lost_context()) is None:
        return
    if hasattr(item.config, "workerinput"):
        os._exit(1)  # the one that hands out tests notes this one as failed and starts another
    item.session.shouldstop = f"the GPU's context is lost: {lost}"


def _lost_context() -> str | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return None


class _Writer:
    path: Path | None = None


def pytest_configure(config: Any) -> None:
    # Of a parallel run, only the process that hands out tests writes.
    _Writer.path = None if hasattr(config, "workerinput") else config.getoption("--record")


def _write(outcome: str, seconds: float, test: str) -> None:
    if _Writer.path is not None:
        with _Writer.path.open("a", encoding="utf-8") as file:
            file.write(f"{outcome} {seconds:.2f} {test}\n")
