"""`NaN` is no JSON: what is not finite is null in every line, and old lines are still read."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from fastgan.engine.log import MetricsLog, RunLog
from fastgan.engine.loggers import TensorBoard
from fastgan.engine.run_folder import RunFolder
from fastgan.metrics import Score, load_scores, save_scores


def strictly(text: str) -> object:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_a_line_holds_null(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    log.write({"step": 1, "loss_d": math.nan, "loss_g": math.inf, "logit": -math.inf, "ok": 0.5})
    log.close()
    assert strictly(path.read_text()) == {
        "step": 1, "loss_d": None, "loss_g": None, "logit": None, "ok": 0.5,
    }  # fmt: skip


def test_a_run_goes_on_behind_lines_of_both_kinds(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss_d": NaN}\n{"step": 2, "loss_d": null}\n{"step": 3}\n')
    log = MetricsLog(path, resume_step=2)
    log.write({"step": 3, "loss_d": math.nan})
    log.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert lines[2]["loss_d"] is None


def test_tensorboard_still_gets_the_number(tmp_path: Path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = RunLog(RunFolder(tmp_path), [TensorBoard()], print)
    log.open(0, {})
    log.write(1, {"loss_d": math.nan})
    log.close()
    assert strictly((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss_d": None}
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert math.isnan(events.Scalars("loss_d")[0].value)


def test_scores_keep_their_nan(tmp_path: Path):
    path = tmp_path / "scores.json"
    scores = [Score("fid", math.nan, math.inf, {"seed": 0, "limits": [math.nan]}), Score("is", 2.0)]
    save_scores(scores, path)
    strictly(path.read_text())
    first, second = load_scores(path)
    assert math.isnan(first.value)
    assert first.spread is None
    assert second == scores[1]
    path.write_text('[{"metric": "fid", "value": NaN}]')
    assert math.isnan(load_scores(path)[0].value)
