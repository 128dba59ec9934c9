"""`fastgan train`, `sample` and `eval` of sounds, on a run of tiny width."""

from __future__ import annotations

import wave
from pathlib import Path

import pytest
from PIL import Image

from fastgan.cli import main
from fastgan.engine.log import SilentReporter
from fastgan.recipes import train
from fastgan.recipes.evaluation import Evaluation, evaluate_checkpoint

from .tiny_recipe import noises, tiny

pytest.importorskip("soundfile")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "wavegan"
    short = {"steps": 2, "batch_size": 4, "sample_count": 3, "device": "cpu"}
    train(tiny("wavegan"), out=out, reporter=SilentReporter(), **short)
    return out


def test_samples_are_spectrograms_or_a_sound(run, tmp_path, capsys):
    (samples,) = (run / "samples").iterdir()
    with Image.open(samples) as grid:
        assert grid.size == (2 * 66 + 2, 2 * 34 + 2)
    out = tmp_path / "sounds.wav"
    assert main(["sample", str(run), "-n", "3", "-o", str(out)]) == 0
    with wave.open(str(out)) as file:
        assert (file.getframerate(), file.getnframes(), file.getnchannels()) == (8000, 3 * 256, 1)
    assert main(["sample", str(run), "-n", "4", "-o", str(tmp_path / "grid.png")]) == 0


def test_samples_are_compared_with_half_of_the_clips(run, tmp_path, capsys):
    scores = {s.metric: s for s in evaluate_checkpoint(run, Evaluation(samples=50))}
    assert scores.keys() == {"frechet", "frechet_floor", "frechet_noise"}
    assert scores["frechet"].setting["windows"] == 12
    assert scores["frechet_floor"].value < scores["frechet"].value
    one = Evaluation(data=str(noises() / "0.wav"))
    with pytest.raises(ValueError, match="two clips at least are needed"):
        evaluate_checkpoint(run, one)
    out = str(tmp_path / "run")
    assert main(["train", "wavegan", "--out", out]) == 2
    assert "wavegan is for sounds of your own: give it --data PATH" in capsys.readouterr().err
