"""Loggers beside a run: what they are told, and that none of them ends it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from fastgan.engine.loggers import Logger, MLflow, TensorBoard, Trackio, WandB, get_logger

from .conftest import Recorder, tiny_trainer


class Notes(Logger):
    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.calls: list[tuple] = []

    def _told(self, name: str, *arguments) -> None:
        self.calls.append((name, *arguments))
        if name == self.fails:
            raise OSError("no\nnetwork")

    def start(self, out, facts, step) -> None:
        self._told("start", out.name, facts["config"]["steps"], step)

    def metrics(self, step, values) -> None:
        self._told("metrics", step, {"loss_d", "img_per_s", "seconds"} <= values.keys())

    def images(self, step, name, picture) -> None:
        self._told("images", step, name, picture.dtype.name, picture.shape[2])

    def artifact(self, path) -> None:
        self._told("artifact", path.name, (path / "checkpoint.json").exists())

    def close(self) -> None:
        self._told("close")


def fit(out: Path, *loggers: Logger, resume: bool = False, **settings) -> Recorder:
    recorder = Recorder()
    settings = {"steps": 2, "log_every": 1, **settings}
    trainer = tiny_trainer(parts={"callbacks": list(loggers)}, **settings)
    trainer.fit(out, reporter=recorder, resume=resume)
    return recorder


def test_a_logger_is_told_of_all_in_order(tmp_path):
    logger = Notes()
    fit(tmp_path / "run", logger)
    assert logger.calls == [
        ("start", "run", 2, 0),
        ("metrics", 1, True),
        ("metrics", 2, True),
        ("images", 2, "samples", "uint8", 3),
        ("artifact", "step-00000002", True),  # once it is written, beside the steps
        ("close",),
    ]
    fit(tmp_path / "run", logger, resume=True, steps=3)
    assert logger.calls[6:8] == [("start", "run", 3, 2), ("metrics", 3, True)]


@pytest.mark.parametrize("method", ["start", "metrics", "images", "artifact", "close"])
def test_a_logger_that_raises_is_told_of_once_and_the_run_goes_on(tmp_path, method):
    broken, other = Notes(fails=method), Notes()
    recorder = fit(tmp_path / "run", broken, other)
    assert recorder.notes == [f"warning: Notes.{method} failed, and the run goes on: OSError: no"]
    assert broken.calls == other.calls
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


def test_an_error_of_the_run_still_closes_loggers(tmp_path):
    class Ends(Notes):
        def on_step(self, trainer) -> None:
            raise ValueError("the end")

    logger = Ends()
    with pytest.raises(ValueError, match="the end"):
        fit(tmp_path / "run", logger)
    assert [call[0] for call in logger.calls] == ["start", "close"]


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("tensorboard", "torch.utils.tensorboard"),
        ("wandb", "wandb"),
        ("mlflow", "mlflow.entities"),
        ("trackio", "trackio"),
    ],
)
def test_a_missing_package_names_its_extra_before_a_folder_stands(
    tmp_path, monkeypatch, name, package
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf"pip install 'fastgan\[{name}\]'"):
        fit(tmp_path / "run", loggers=name)
    assert not (tmp_path / "run").exists()


def test_loggers_by_name(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="unknown logger 'wandbb'; did you mean 'wandb'"):
        fit(tmp_path / "run", loggers="wandbb")
    with pytest.raises(ModuleNotFoundError):
        get_logger("wandb")


def test_tensorboard_gets_scalars_and_pictures(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    fit(tmp_path / "run", loggers="tensorboard", tensorboard=True)
    fit(tmp_path / "run", tensorboard=True, resume=True, steps=3)
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    expected = [(line["step"], line["loss_d"]) for line in map(json.loads, lines)]
    found = [(event.step, event.value) for event in events.Scalars("loss_d")]
    assert found == [(step, pytest.approx(value)) for step, value in expected]
    assert [event.step for event in events.Images("samples")] == [2, 3]
    TensorBoard().close()  # of a run that has not started


def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs fastgan[wandb]")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandB("tiny", mode="offline", dir=str(tmp_path), checkpoints=True)
    assert not fit(tmp_path / "run", logger).notes
    [written] = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    content = written.read_bytes()
    assert all(name in content for name in (b"loss_d", b"samples", b"step-00000002"))


def test_mlflow_file_store(tmp_path, monkeypatch):
    tracking = pytest.importorskip("mlflow.tracking", reason="needs fastgan[mlflow]")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "mlruns").as_uri()
    logger = MLflow("tiny", tracking_uri=uri, checkpoints=True)
    assert not fit(tmp_path / "run", logger).notes
    client = tracking.MlflowClient(uri)
    [run] = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert run.data.params["batch_size"] == "8"
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "loss_d")
    assert [entry.step for entry in history] == [1, 2]
    artifacts = {
        file.path
        for folder in ("samples", "checkpoints")
        for file in client.list_artifacts(run.info.run_id, folder)
    }
    assert artifacts == {"samples/step-00000002.png", "checkpoints/step-00000002"}


def test_trackio_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio", reason="needs fastgan[trackio]")
    assert not fit(tmp_path / "run", Trackio("tiny")).notes
    content = b"".join(p.read_bytes() for p in (tmp_path / "trackio").rglob("*.db*"))
    assert b"loss_d" in content
