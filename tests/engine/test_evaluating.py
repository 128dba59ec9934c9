"""A run that evaluates keeps the best checkpoint, and ends where nothing gets better."""

from __future__ import annotations

import math

import pytest
import torch

from fastgan.cli import main
from fastgan.data import ImageDataset
from fastgan.engine import TrainConfig, find_checkpoint, load_generator
from fastgan.engine.checkpoint import list_checkpoints
from fastgan.engine.evaluating import Evaluator
from fastgan.engine.log import read_scores
from fastgan.metrics import Score
from fastgan.models import create_model

from .conftest import TINY, tiny_trainer

SETTINGS = {"eval_every": 1, "eval_samples": 10, "checkpoint_every": 0, "keep_last": 1}


@pytest.fixture
def scripted(monkeypatch):
    """Has evaluations give these values of fid, one after the other."""

    def script(*values: float) -> None:
        left = iter(values)

        def sample_scores(model, *_):
            assert not model.training
            return [Score("fid", next(left))]

        monkeypatch.setattr("fastgan.engine.evaluating.sample_scores", sample_scores)

    return script


def steps_of(folder) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in list_checkpoints(folder))


def test_the_best_checkpoint_is_kept_and_found(tmp_path, recorder, scripted):
    scripted(5.0, 3.0, math.nan, 4.0, 9.0, 8.0)
    result = tiny_trainer(**SETTINGS).fit(tmp_path / "run", reporter=recorder)
    assert (result.step, result.best_score.value) == (6, 3.0)
    assert result.best == tmp_path / "run" / "checkpoints" / "step-00000002"
    assert steps_of(tmp_path / "run" / "checkpoints") == [2, 6]
    assert find_checkpoint(tmp_path / "run" / "best").path == result.best
    assert find_checkpoint(tmp_path / "run").step == 6
    tiny = create_model("dcgan_generator", latent_dim=6, **TINY)
    load_generator(tmp_path / "run" / "best", generator=tiny)
    assert "step 2: fid 3 (best)" in recorder.notes
    written = read_scores(tmp_path / "run" / "scores.jsonl")
    assert [step for step, _ in written] == [1, 2, 3, 4, 5, 6]
    assert math.isnan(written[2][1][0].value)


def test_a_run_ends_where_nothing_gets_better(tmp_path, recorder, scripted):
    scripted(5.0, 6.0, 7.0)
    result = tiny_trainer(**SETTINGS, stop_after=2).fit(tmp_path / "run", reporter=recorder)
    assert (result.step, result.finished, result.stopped_by) == (3, True, None)
    assert recorder.notes[-1] == "no better fid in 2 evaluations: the run ends here"


def test_a_resumed_run_knows_what_was_best(tmp_path, recorder, scripted):
    scripted(5.0, 2.0)
    tiny_trainer(**SETTINGS, steps=2).fit(tmp_path / "run", reporter=recorder)
    scripted(3.0, 4.0)
    trainer = tiny_trainer(**SETTINGS, steps=9, stop_after=2)
    result = trainer.fit(tmp_path / "run", resume=True, reporter=recorder)
    assert (result.step, result.best_score.value, result.best.name) == (4, 2.0, "step-00000002")
    others = tiny_trainer(**{**SETTINGS, "eval_samples": 20}, steps=9)
    with pytest.raises(ValueError, match="eval_samples: 10 in the checkpoint, 20 now"):
        others.fit(tmp_path / "run", resume=True, reporter=recorder)


def test_evaluations_leave_the_weights_as_they_are(tmp_path, recorder):
    weights = []
    for every in (0, 2):
        trainer = tiny_trainer(steps=3, eval_every=every, eval_samples=20, eval_metrics="kid,is")
        trainer.fit(tmp_path / str(every), reporter=recorder)
        weights.append(torch.cat([p.flatten() for p in trainer.generator.parameters()]))
    assert torch.equal(*weights)
    (_, first), (_, last) = read_scores(tmp_path / "2" / "scores.jsonl")  # and once at the end
    assert [score.metric for score in first] == ["kid", "is"]
    assert first[0].setting["features"] == "lenet-mnist"
    assert first[0].value != last[0].value


def test_a_generator_that_has_diverged_is_no_improvement():
    trainer = tiny_trainer(eval_every=1, eval_samples=10)
    with torch.no_grad():
        next(trainer.ema.average.parameters()).fill_(math.nan)
    evaluator, notes = Evaluator(trainer), []
    (score,) = evaluator.evaluate(notes.append)
    assert math.isnan(score.value)
    assert evaluator.best is None
    assert evaluator.best_checkpoint("run") is None


@pytest.mark.parametrize(
    ("settings", "channels", "message"),
    [
        ({"eval_metrics": "fidd"}, 1, "unknown metric 'fidd': there are fid, kid"),
        ({"eval_metrics": "psnr"}, 1, "psnr needs an encoder, and DCGANGenerator has none"),
        ({"eval_features": "lenett"}, 1, "did you mean 'lenet'"),
        ({}, 3, r"choose a network for colour \(efficientnet-lite0 or inception\)"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_trained(settings, channels, message):
    trainer = tiny_trainer(**{"eval_every": 1, "eval_samples": 10, **settings})
    trainer.dataset = ImageDataset(torch.zeros(20, channels, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match=message):
        Evaluator(trainer)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"eval_every": "soon"}, "eval_every must be a number of steps, or a time"),
        ({"eval_samples": 1}, "eval_samples must be at least 2, got 1"),
        ({"stop_after": -1}, "stop_after must be at least 0, got -1"),
    ],
)
def test_bad_settings_are_told(setting, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**setting)


def test_only_images_are_evaluated():
    trainer = tiny_trainer(eval_every=1, eval_samples=10)
    trainer.dataset = ImageDataset(torch.zeros(9, 1, 8))
    with pytest.raises(ValueError, match="eval_every measures images, and the data are others"):
        Evaluator(trainer)


def test_a_run_without_scores_has_no_best(tmp_path, capsys):
    assert main(["sample", str(tmp_path / "best")]) == 2
    assert "has no checkpoint with a score (--eval-every)" in capsys.readouterr().err
