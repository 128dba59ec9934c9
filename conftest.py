"""The options that tests/ and bench/ share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent

# Tests that run side by side share the cores; torch reads this when it is imported.
if beside := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(beside))))


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastgan", "the performance suite")
    group.addoption("--benchmark", action="store_true", help="run bench/, the performance suite")
    group.addoption("--quick", action="store_true", help="with --benchmark: fewer cases and rounds")
    group.addoption(
        "--results",
        type=Path,
        default=ROOT / "bench" / "results" / "local",
        metavar="FOLDER",
        help="with --benchmark: where the JSON lines go (default: %(default)s)",
    )
    group.addoption(
        "--time-limit",
        type=float,
        metavar="SECONDS",
        help="with --benchmark: begin no case after so long; the quick ones come first",
    )
    group.addoption(
        "--continue",
        action="store_true",
        help="with --benchmark: keep the results of this code, measure the cases that lack",
    )
    parser.addoption("--long", action="store_true", help="run the tests that take minutes, too")
    group.addoption(
        "--keep",
        action="store_true",
        help="with --benchmark: results to bench/results/MACHINE, once they are complete",
    )


def pytest_configure(config: pytest.Config) -> None:
    # `pytest --benchmark` means bench/, not the folder of tests that pytest takes by itself.
    if config.getoption("--benchmark") and not (ROOT / "fastgan" / "_build.json").is_file():
        raise pytest.UsageError(
            f"fastgan is not built in {ROOT}, whose folder comes before an installed fastgan: "
            "run `make setup`, or `pip install --editable .` in your environment"
        )
    if config.getoption("--keep") and config.getoption("--quick"):
        raise pytest.UsageError("--quick does not go with --keep: what is kept is the full suite")
    by_itself = config.args_source is not pytest.Config.ArgsSource.ARGS
    if config.getoption("--benchmark") and by_itself:
        config.args = [str(ROOT / "bench")]
