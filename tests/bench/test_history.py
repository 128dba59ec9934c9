"""The gate: only a fall that two further measurements confirm, on a processor it knows."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

import fastgan.fusion
from bench.harness import compare
from bench.harness.compare import (
    CASES,
    STEP,
    bounds,
    chosen_cases,
    confirmed,
    measured,
    read,
    record,
    slower,
    timed_on,
)
from bench.harness.machine import ROOT

FAST = dict.fromkeys(CASES, 2.0)
FIRST = next(iter(CASES))


def answers(*values: float):
    """Measurements in which the first case has these ratios, one after another."""
    asked: list[list[str]] = []

    def measure(names: list[str]) -> dict[str, float]:
        asked.append(names)
        return dict.fromkeys(names, 2.0) | {FIRST: values[len(asked) - 1]}

    return measure, asked


def test_a_fall_that_is_confirmed_twice_fails():
    measure, asked = answers(1.3, 1.2, 1.35)
    _, failed = confirmed(FAST, measure)
    assert failed == [FIRST]
    assert asked == [list(CASES), [FIRST], [FIRST]]


@pytest.mark.parametrize("values", [(1.45,), (1.3, 1.5), (1.3, 1.3, 1.5)])
def test_a_fall_that_is_small_or_not_confirmed_passes(values):
    measure, asked = answers(*values)
    ratios, failed = confirmed(FAST, measure)
    assert not failed
    assert len(asked) == len(values)
    assert ratios[FIRST] == values[0]


def test_bounds_are_the_lowest_of_the_same_instruction_set():
    rows = [
        {"instructions": "AVX512", "ratios": {"a": 2.0, "b": 1.0}},
        {"instructions": "AVX512", "ratios": {"a": 1.5}},
        {"instructions": "AVX2", "ratios": {"a": 0.5}},
    ]
    assert bounds(rows, "AVX512") == {"a": 1.5, "b": 1.0}
    assert slower({"a": 0.1}, bounds(rows, "NEON")) == []


def test_records_are_appended_and_read(tmp_path):
    path = tmp_path / "history" / "cpu.jsonl"
    assert read(path) == []
    record({"a": 1.23456}, path)
    record({"a": 2.0}, path)
    assert [row["ratios"] for row in read(path)] == [{"a": 1.235}, {"a": 2.0}]
    assert {"date", "commit", "torch", "processor", "instructions"} <= read(path)[0].keys()


def test_a_wrong_result_is_no_ratio(monkeypatch):
    monkeypatch.setattr(fastgan.fusion, "fuse", lambda model: model[0])
    with pytest.raises(RuntimeError, match="refused"):
        measured([FIRST])


def test_the_committed_history_knows_every_case():
    rows = read()
    assert rows
    assert rows[-1]["ratios"].keys() == CASES.keys()


def test_another_tree_is_timed_by_its_own_package(tmp_path: Path) -> None:
    (tmp_path / "fastgan").symlink_to(ROOT / "fastgan")
    found = timed_on(tmp_path, ["norm of one image"])
    assert found["norm of one image"] > 0
    (tmp_path / "fastgan").unlink()
    with pytest.raises(RuntimeError, match="AssertionError"):
        timed_on(tmp_path, [])


def test_a_commit_is_met_by_several_fresh_pairs(monkeypatch, tmp_path, capsys):
    of_other = iter([2.0, 1.5, 3.0, 1.0, 2.5])  # eager takes six times as long as this tree's
    monkeypatch.setattr(
        compare,
        "timed_on",
        lambda tree, cases: dict.fromkeys(cases, 6.0 if tree == ROOT else 6.0 / next(of_other)),
    )
    monkeypatch.setattr(compare, "checked_out", lambda commit: nullcontext(tmp_path))
    monkeypatch.setattr("sys.argv", ["compare", "main", "--only", "dcgan-64"])
    assert compare.main() == 0
    assert not list(of_other)
    first, last = capsys.readouterr().out.splitlines()
    assert first == f"{STEP:22} 2.00× the speed of main [1.00, 3.00]"
    assert last.startswith("geometric mean 2.00×")


def test_cases_are_chosen_by_their_names():
    assert chosen_cases("") == [*CASES, STEP]
    assert chosen_cases("BFLOAT16") == ["norm 16x16 bfloat16"]
    with pytest.raises(ValueError, match="--only: 'what' is in no case's name; there are norm 16"):
        chosen_cases("what")
