"""A run of the suite: on disk as it goes, cut by its deadline, continued later."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import nn

from bench.harness import machine, results
from bench.harness.case import FORWARD, Case
from bench.harness.clock import parse_state
from bench.harness.session import Session
from bench.harness.workload import Implementation, Workload

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
    monkeypatch.setattr(machine, "_git", lambda *_: "")
    session.measure("m", CASE, workload)
    assert "results stand" in str(Session(tmp_path, go_on=True).why_not("m", CASE))
    monkeypatch.setattr(machine, "source_hash", lambda: "another")
    assert Session(tmp_path, go_on=True).why_not("m", CASE) is None


def test_the_state_of_a_gpu_is_read():
    state = parse_state("1980, 2619, 41, 310.5, 0x0000000000000004\n")
    assert state["throttled"]
    assert state["sm_mhz"] == "1980"
    assert not parse_state("1980, 2619, 41, 310.5, 0x0000000000000001")["throttled"]
    assert parse_state("no devices") == {}


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
