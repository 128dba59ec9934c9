"""The page of benchmarks is what the committed results give."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import zoo_page
from bench.harness import page, results

CASE = {
    "op": "norm_act", "shape": "4×3×8×8", "dtype": "float32", "layout": "contiguous",
    "part": "forward", "device": "cpu",
}  # fmt: skip
RUN = {
    "time": "2026-01-01T00:00:00Z", "commit": "0123456789abcdef", "changed": False,
    "machine": {"name": "CPU", "cores": 2, "instructions": "AVX2"},
    "versions": {"torch": "2.13.0"},
    "settings": {"threads": 2, "tf32_matmul": False, "tf32_cudnn": False, "environment": {}},
}  # fmt: skip


def rows() -> list[results.Row]:
    row = {"kind": "case", "case": CASE, "saved_bytes": 1 << 20, "peak_bytes": 1 << 21}
    own = {"implementation": "fused", "own": True, "ratio": {}, "seconds": {"p50": 0.001}}
    peer = {
        "implementation": "eager", "own": False, "seconds": {"p50": 0.002},
        "ratio": {"fused": [2.0, 1.9, 2.1]},
    }  # fmt: skip
    absent = {"implementation": "other", "own": False, "left_out": "not installed"}
    case = {**row, "share_of_roofline": 0.5}
    return [
        {**case, **own},
        {**case, **peer},
        {"kind": "case", "case": CASE, **absent},
        *({"kind": "quality", "arm": arm, "seed": 0, "seconds": s, "steps": 10, "batch": 64,
           "metric": "fid", "metrics": {"fid": 9.0 / s}} for arm in "ab" for s in (1.0, 2.0)),
    ]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    results.write(tmp_path / "cpu-avx2" / "norm_act.jsonl", RUN, rows())
    results.write(tmp_path / "local" / "norm_act.jsonl", RUN, rows())
    return tmp_path


def test_the_committed_page_is_what_the_committed_results_give():
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.made(text, page.committed()) == text, "make bench-docs, and commit what it writes"


def test_the_zoos_page_is_what_the_committed_results_give():
    text = zoo_page.PAGE.read_text(encoding="utf-8")
    assert zoo_page.made(text, page.committed()) == text, "python -m bench.zoo_page, and commit it"


def test_quality_is_a_mean_over_seconds_with_the_band_of_seeds():
    points = [
        ("a", 0, (4.0, 2.0, 2.0)),
        ("a", 1, (8.0, 4.0, 4.0)),
        ("tutorial", 0, (8.0, 8.0, 8.0)),
    ]
    rows = [
        {"arm": arm, "seed": seed, "seconds": s, "steps": 10 * s, "batch": 4, "metric": "kid",
         "metrics": {"kid": value}}
        for arm, seed, values in points for s, value in zip((1.0, 2.0, 5.0), values, strict=True)
    ]  # fmt: skip
    table = page.quality(rows)
    # One second at a mean of 3, three at 2: 2.25, and twice that; the tutorial's is 8.
    assert "| a | 2 | 5 | 50 | 40 | 3 (2–4) | 3.375 (2.25–4.5) | 0.42 |" in table
    assert "| tutorial | 1 | 5 | 50 | 40 | 8 | 8 | 1.00 |" in table


def test_a_share_above_the_roofline_has_a_word_beside_it():
    below, above = rows()[:2], [{**row, "share_of_roofline": 1.25} for row in rows()[:2]]
    assert "| 50% |" in page.of_cases(below)
    assert page.BEYOND not in page.of_cases(below) + page.steps(_as_steps(below))
    assert "| 125% † |" in page.of_cases(above)
    assert page.of_cases(above).count(page.BEYOND) == 1
    assert page.steps(_as_steps(above)).count(page.BEYOND) == 1


def _as_steps(rows: list[results.Row]) -> list[results.Row]:
    return [{**row, "case": {**CASE, "op": "step", "shape": "batch 4"}} for row in rows]


def test_each_machine_has_tables_of_its_own(folder):
    marks = "<!-- made: layers -->\n<!-- end -->\n"
    alone = page.made(marks, page.committed(folder))
    other = {**RUN, "machine": {**RUN["machine"], "family": "25"}}
    results.write(folder / "cpu-family-25-avx2" / "norm_act.jsonl", other, rows())
    both = page.made(marks, page.committed(folder))
    assert "(2 cores" not in alone
    assert both.index("CPU (2 cores, AVX2):") < both.index("CPU (family 25, 2 cores, AVX2):")
    assert both.count("| norm_act |") == 2 * alone.count("| norm_act |") == 2


def test_tables_hold_what_was_measured_and_what_was_left_out(folder):
    (run,) = runs = page.committed(folder)  # not what stands in local/
    assert run.folder == "cpu-avx2"
    table = page.region("layers", runs)
    assert (
        "| norm_act | 4×3×8×8 | forward, float32, contiguous | 1.00 | 50% | 2.00 (1.90–2.10)"
        in table
    )
    assert "other: not installed" in table
    assert "CPU (2 cores, AVX2), torch 2.13.0, 2 threads, TF32 off" in page.machines(runs)
    assert "No GPU has been measured yet" in page.machines(runs)


def test_regions_are_filled_again_and_again(folder):
    runs = page.committed(folder)
    text = "# A\n\n<!-- made: machines -->\nold\n<!-- end -->\n\nB\n"
    once = page.made(text, runs)
    assert "old" not in once
    assert once.endswith("<!-- end -->\n\nB\n")
    assert page.made(once, runs) == once
    with pytest.raises(ValueError, match="unknown region 'what'"):
        page.made(text.replace("machines", "what"), runs)


def test_a_run_prints_its_tables(folder):
    text = page.tables(page.committed(folder))
    assert "| norm_act | 4×3×8×8 |" in text
