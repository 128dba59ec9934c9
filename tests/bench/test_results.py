"""Results as they are written and read."""

from __future__ import annotations

import pytest

from bench.harness import results


def test_results_are_read_as_written_and_a_folder_as_one(tmp_path):
    results.write(tmp_path / "a.jsonl", {"commit": "x"}, [{"kind": "case", "n": 1}] * 3)
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
