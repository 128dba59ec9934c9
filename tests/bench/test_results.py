"""Results as they are written and read."""

from __future__ import annotations

import pytest

from bench.harness import results


def test_results_are_read_as_written(tmp_path):
    path = tmp_path / "a.jsonl"
    results.write(path, {"commit": "x"}, [{"kind": "case", "n": 7654321, "at": [1.2345678]}] * 3)
    run, found = results.read(path)
    assert run["commit"] == "x"
    assert found == [{"kind": "case", "n": 7654321, "at": [1.2346]}] * 3


@pytest.mark.parametrize("text", ["", "{", '{"kind": "case"}', '{"kind": "run", "schema": 0}'])
def test_what_is_no_result_says_so(tmp_path, text):
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match="jsonl"):
        results.read(path)
