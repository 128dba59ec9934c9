"""Two runs compared by the ratios that each took within itself; results read and written."""

from __future__ import annotations

import pytest

from bench.harness import compare, results

CASE = {"op": "o", "shape": "s", "dtype": "d", "layout": "l", "part": "p", "device": "cpu"}


def rows(eager, compiled, case=CASE):
    own = {"kind": "case", "case": case, "implementation": "fused", "own": True, "ratio": {}}
    peers = {"eager": eager, "compiled": compiled}
    return [own] + [
        {"kind": "case", "case": case, "implementation": name, "own": False, "ratio": {"fused": r}}
        for name, r in peers.items()
    ]


def test_the_strongest_peer_decides_and_noise_is_told_from_change():
    before = rows([2.0, 1.9, 2.1], [1.5, 1.4, 1.6])
    slower, same = rows([3.0, 2.9, 3.1], [1.2, 1.1, 1.3]), rows([2, 2, 2], [1.55, 1.45, 1.65])
    (change,) = compare.changes(before, slower)
    assert change.peer == "compiled"
    assert change.value == pytest.approx(0.8)
    assert change.beyond_noise
    assert not compare.changes(before, same)[0].beyond_noise
    assert "0 better, 1 worse" in compare.render(compare.changes(before, slower))


def test_runs_without_a_common_case():
    other = rows([1, 1, 1], [1, 1, 1], {**CASE, "op": "other"})
    assert "no case in common" in compare.render(compare.changes(rows([1] * 3, [1] * 3), other))


def test_results_are_read_as_written_and_a_folder_as_one(tmp_path):
    results.write(tmp_path / "a.jsonl", {"commit": "x"}, rows([2.0] * 3, [1.0] * 3))
    results.write(tmp_path / "b.jsonl", {"commit": "x"}, [{"kind": "case", "n": 1.2345678}])
    run, found = results.read(tmp_path)
    assert run["commit"] == "x"
    assert len(found) == 4
    assert found[-1]["n"] == 1.2346


@pytest.mark.parametrize("text", ["", "{", '{"kind": "case"}', '{"kind": "run", "schema": 0}'])
def test_what_is_no_result_says_so(tmp_path, text):
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match="jsonl"):
        results.read(path)


def test_the_command_compares_and_reports_what_it_cannot_read(tmp_path, monkeypatch, capsys):
    results.write(tmp_path / "a.jsonl", {}, rows([2.0] * 3, [1.5] * 3))
    monkeypatch.setattr("sys.argv", ["compare", str(tmp_path), str(tmp_path / "a.jsonl")])
    assert compare.main() == 0
    assert "1 cases" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["compare", str(tmp_path), str(tmp_path / "none.jsonl")])
    assert compare.main() == 2
    assert "none.jsonl" in capsys.readouterr().err
