"""`python -m bench.commits`: two commits in turns, in fresh processes."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.commits import __main__ as commits
from bench.commits.workload import WORKLOADS
from bench.harness.source import ROOT

OPTIONS = argparse.Namespace(commit="before", pairs=3, threads=1, seconds=0.0)


@pytest.mark.parametrize("workload", ["norm-1x64x8x8", "step-16"])
def test_a_workload_runs_by_its_path(workload: str) -> None:
    assert commits.seconds_of(ROOT, workload, threads=1, seconds=0) > 0


def test_fastgan_of_another_tree_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, str(commits.WORKLOAD), str(tmp_path), "step-16", "1", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode
    assert f"not from {tmp_path}" in done.stderr


def test_ratios_are_taken_in_pairs_whose_order_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Path("before")
    order: list[Path] = []
    seconds: dict[Path, Iterator[float]] = {
        before: iter([0.003, 0.002, 0.008]),
        ROOT: iter([0.001, 0.002, 0.004]),
    }

    def timed(tree: Path, *_: object) -> float:
        order.append(tree)
        return next(seconds[tree])

    monkeypatch.setattr(commits, "seconds_of", timed)
    line = commits.compare(before, "step-16", OPTIONS)
    assert line == "| step-16 | 3.000 | 2.000 | **2.000** | 1.000 to 3.000 |"
    assert order == [ROOT, before, before, ROOT, ROOT, before]


def test_a_commit_that_is_not_there_is_told() -> None:
    with pytest.raises(SystemExit, match="no-such-commit is not a commit of this repository"):
        commits.unpacked("no-such-commit")


def test_every_workload_builds() -> None:
    for build in WORKLOADS.values():
        assert callable(build())
