from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(name: str, monkeypatch, capsys, *flags: str) -> Path:
    path = EXAMPLES / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(path), "--steps", "3", *flags])
    runpy.run_path(str(path), run_name="__main__")
    return Path(capsys.readouterr().out.splitlines()[-1])


def test_the_example_trains_a_foreign_conditional_model(tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    last = run("train_foreign_model", monkeypatch, capsys, "--out", str(out))
    assert last == out / "samples" / "step-00000003.png"
    assert last.exists()
    line = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"loss_d", "loss_g", "r1", "weight_norm"} <= line.keys()


@pytest.mark.parametrize(
    ("name", "height", "width"), [("train_volumes", 16, 16), ("train_13_channels", 48, 80)]
)
def test_examples_train_on_data_of_other_kinds(tmp_path, monkeypatch, capsys, name, height, width):
    last = run(name, monkeypatch, capsys, "--width", "2", "--out", str(tmp_path / "run"))
    scale = max(1, 64 // width)
    with Image.open(last) as grid:
        assert grid.size == tuple(scale * (8 * (side + 2) + 2) for side in (width, height))


@pytest.mark.parametrize("name", ["train_volumes", "train_13_channels"])
def test_data_of_other_kinds_take_thirty_lines(name):
    lines = (EXAMPLES / f"{name}.py").read_text().splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 30
