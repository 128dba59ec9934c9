"""A run of the suite: on disk as it goes, cut by its deadline, continued later."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import nn

from bench.harness import drafts, machine, results
from bench.harness.case import FORWARD, Case
from bench.harness.session import Session
from bench.harness.workload import Implementation, Workload

ROOT = Path(__file__).resolve().parents[2]
CASE = Case("norm", "4×3×8×8", "float32", "contiguous", FORWARD)
OTHER_CASE = Case("norm", "2×3×8×8", "float32", "contiguous", FORWARD)


def workload(case: Case) -> Workload:
    shape = tuple(map(int, case.shape.split("×")))
    ways = {"eager": Implementation(lambda m: m, "contiguous")}
    return Workload(case, nn.BatchNorm2d(3), [shape], ways)


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setattr(machine, "ceilings", lambda device: {"bytes": 1e9, "float32": 1e9})
    return Session(tmp_path, quick=True)


def test_what_was_measured_is_on_disk_at_once(session):
    session.measure("m", CASE, workload)
    run, rows = results.read(session.path("m"))
    assert [row["case"]["shape"] for row in rows] == ["4×3×8×8"]
    assert "threads" in run["settings"]
    assert "allocator" in machine.in_words(run)


def test_the_processor_s_family_is_part_of_its_name(monkeypatch):
    told = {"model name": "AMD EPYC", "cpu family": "25"}
    monkeypatch.setattr(machine, "_cpuinfo", lambda: told)
    assert machine.slug().startswith("amd-epyc-family-25-")
    assert machine.named(machine.processor()).startswith("AMD EPYC (family 25, ")
    monkeypatch.setattr(machine, "_cpuinfo", dict)
    assert "family" not in machine.slug() + machine.named(machine.processor())


def test_a_cut_run_is_continued_and_keeps_what_it_had(session, tmp_path):
    session.measure("m", CASE, workload)
    late = Session(tmp_path, quick=True, deadline=time.monotonic() - 1)
    assert late.why_not("m", CASE) == "out of time (--time-limit)"
    more = Session(tmp_path, quick=True, go_on=True)
    assert "results stand" in str(more.why_not("m", CASE))
    assert more.why_not("m", OTHER_CASE) is None
    more.measure("m", OTHER_CASE, workload)
    _, rows = results.read(tmp_path / "m.jsonl")
    assert [row["case"]["shape"] for row in rows] == ["4×3×8×8", "2×3×8×8"]


def test_rows_of_other_kinds_are_kept_too_and_replaced_by_their_like(session, tmp_path):
    rows = [{"kind": "program", "what": what, "value": 1.0, "unit": "s"} for what in "ab"]
    session.add("m", *rows)
    more = Session(tmp_path, quick=True, go_on=True)
    more.add("m", {**rows[1], "value": 2.0})
    more.add("m", {**rows[1], "what": "c"})
    _, found = results.read(tmp_path / "m.jsonl")
    assert [(row["what"], row["value"]) for row in found] == [("a", 1.0), ("b", 2.0), ("c", 1.0)]


def test_results_of_other_code_are_not_continued(session, tmp_path, monkeypatch):
    """Where no repository travelled, too: the commit is the same empty text in both runs."""
    monkeypatch.setattr(machine, "git", lambda *_: "")
    session.measure("m", CASE, workload)
    assert "results stand" in str(Session(tmp_path, go_on=True).why_not("m", CASE))
    monkeypatch.setattr(machine, "source_hash", lambda: "another")
    assert Session(tmp_path, go_on=True).why_not("m", CASE) is None


def test_how_long_it_will_take_is_told_before():
    from bench import conftest

    marks = {"run": [], "skip": [pytest.mark.skip.mark], "gpu": [pytest.mark.skipif(True).mark]}
    items = [
        SimpleNamespace(
            path=conftest.HERE / "test_x.py",
            iter_markers=lambda name, given=given: [m for m in given if m.name == name],
        )
        for given in [*[marks["run"]] * 31, marks["skip"], marks["gpu"]]
    ]
    told: list[str] = []
    config = SimpleNamespace(
        getoption=lambda name: name == "--benchmark",
        get_terminal_writer=lambda: SimpleNamespace(line=told.append),
    )
    conftest.pytest_collection_finish(SimpleNamespace(config=config, items=items))
    assert told == ["31 cases of 4 s: about 3 min of rounds, and what is compiled for them"]


def row(case: Case, **more: object) -> results.Row:
    named = {"kind": "case", "case": case._asdict(), "implementation": "fused", "own": True}
    return {**named, **more}


@pytest.fixture
def kept(session, tmp_path) -> Session:
    """A session whose results are to be committed in a folder that holds older ones of CASE."""
    folder = tmp_path / "results" / "machine"
    results.write(folder / "m.jsonl", {}, [row(CASE, old=1)])
    session.folder, session.kept, session.go_on = drafts.folder_of(folder), folder, True
    return session


def rows_in(folder: Path) -> list[results.Row]:
    return results.read(folder / "m.jsonl")[1]


def test_what_is_committed_is_replaced_by_what_is_complete_and_not_before(kept):
    kept.add("m", row(CASE, new=1))
    assert "old" in rows_in(kept.kept)[0]
    (told,) = kept.finish(well=True, whole=False)
    assert told == f"results: {kept.kept / 'm.jsonl'}"
    assert "new" in rows_in(kept.kept)[0]
    assert not kept.path("m").exists()


@pytest.mark.parametrize("how", ["failed or interrupted", "out of time"])
def test_a_run_that_was_cut_leaves_what_is_committed(kept, how):
    kept.add("m", row(CASE, new=1))
    if how == "out of time":
        kept.deadline = 0.0
        kept.why_not("m", OTHER_CASE)
    (told,) = kept.finish(well=how == "out of time", whole=True)
    assert "goes on with what" in told
    assert "old" in rows_in(kept.kept)[0]
    more = Session(kept.folder, kept.kept, go_on=True)
    assert "results stand" in str(more.why_not("m", CASE))
    assert list(more.finish(well=True, whole=False)) == [f"results: {kept.kept / 'm.jsonl'}"]


def test_a_part_does_not_replace_the_whole(kept):
    kept.add("m", row(OTHER_CASE, new=1))
    (told,) = kept.finish(well=True, whole=False)
    assert "lacks 1 of its rows" in told
    assert "old" in rows_in(kept.kept)[0]
    assert list(kept.finish(well=True, whole=True)) == [f"results: {kept.kept / 'm.jsonl'}"]


def test_a_case_in_which_ours_was_wrong_is_measured_again(session, tmp_path):
    session.add("m", row(CASE, left_out="refused"))
    more = Session(tmp_path, go_on=True)
    assert more.why_not("m", CASE) is None
    more.add("m", row(CASE, rounds=3))
    assert ["left_out" in row for row in rows_in(tmp_path)] == [False]


def test_a_quick_run_is_not_kept():
    command = [sys.executable, "-m", "pytest", "--benchmark", "--quick", "--keep"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--quick does not go with --keep" in done.stderr
