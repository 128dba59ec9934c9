"""The gate: only a fall that two further measurements confirm, on a processor it knows."""

from __future__ import annotations

import pytest

from bench.harness import compare
from bench.harness.compare import CASES, bounds, confirmed, measured, read, record, slower

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
    monkeypatch.setattr(compare, "fuse", lambda model: model[0])
    with pytest.raises(RuntimeError, match="refused"):
        measured([FIRST])


def test_the_committed_history_knows_every_case():
    rows = read()
    assert rows
    assert rows[-1]["ratios"].keys() == CASES.keys()


@pytest.mark.parametrize(("lowest", "code"), [(0.5, 0), (1e6, 1)])
def test_the_command_fails_where_a_case_got_slower(monkeypatch, capsys, lowest, code):
    monkeypatch.setattr(compare, "measured", lambda names: dict.fromkeys(names, 1.0))
    monkeypatch.setattr(compare, "bounds", lambda *_: {FIRST: lowest})
    monkeypatch.setattr("sys.argv", ["compare"])
    assert compare.main() == code
    out = capsys.readouterr().out
    assert f"{FIRST:22} eager takes  1.00 times as long as ours (lowest so far {lowest:.2f})" in out
    assert (f"slower: {FIRST}" in out) == bool(code)
