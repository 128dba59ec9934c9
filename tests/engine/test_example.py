from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "train_foreign_model.py"


def test_the_example_trains_a_foreign_conditional_model(tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "--steps", "3", "--out", str(out)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == str(out / "samples" / "step-00000003.png")
    assert Path(last).exists()
    line = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"loss_d", "loss_g", "r1", "weight_norm"} <= line.keys()
