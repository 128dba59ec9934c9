"""`fastgan train`, `vocode`, `eval` and `export` of a vocoder, on a run of tiny width."""

from __future__ import annotations

import math
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_files import NEEDS_ONNX, assert_onnx

from fastgan.cli import main
from fastgan.data.audio import save_sound
from fastgan.engine import load_generator
from fastgan.engine.log import SilentReporter
from fastgan.engine.vocoding import spectrogram_of, vocode
from fastgan.recipes import train
from fastgan.recipes.evaluation import Evaluation, evaluate_checkpoint, held_out_spectrograms

from .tiny_recipe import noises, tiny

pytest.importorskip("soundfile")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "vocoder"
    short = {"steps": 1, "batch_size": 4, "sample_count": 3, "device": "cpu", "held_out": 0.5}
    train(tiny("vocoder"), out=out, reporter=SilentReporter(), **short)
    return out


def samples_of(path: Path) -> torch.Tensor:
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels()) == (8000, 1)
        return torch.tensor(np.frombuffer(file.readframes(file.getnframes()), "<i2")) / 32767


def test_a_clip_of_any_rate_and_length_is_made_again(run, tmp_path, capsys):
    generator = load_generator(run)
    clip, out = tmp_path / "clip.wav", tmp_path / "out.wav"
    sound = torch.sin(torch.arange(3001) * 0.4) / 2
    save_sound(sound, 16000, clip)
    assert main(["vocode", str(run), str(clip), "-o", str(out), "--frames", "9"]) == 0
    assert "resampled from 16000 Hz to 8000 Hz" in capsys.readouterr().err
    assert len(samples_of(out)) == 1501
    save_sound(sound[:50], 8000, clip)  # shorter than a window of the spectrum
    assert main(["vocode", str(run), str(clip), "-o", str(out), "--force"]) == 0
    given = spectrogram_of((sound[:50] * 32767).round() / 32768, generator)
    expected = vocode(generator, given)[0, 0, :50]
    # Samples of 16 bits.
    torch.testing.assert_close(samples_of(out), expected, atol=1 / 32767, rtol=0)
    np.save(tmp_path / "mel.npy", given.numpy())
    assert main(["vocode", str(run), str(tmp_path / "mel.npy"), "-o", str(out), "--force"]) == 0
    assert len(samples_of(out)) == given.shape[2] * 64


def test_what_is_no_sound_is_refused(run, tmp_path, capsys):
    clip = tmp_path / "clip.wav"
    clip.write_bytes(b"no sound")
    out = ["-o", str(tmp_path / "out.wav")]
    assert main(["vocode", str(run), str(clip), *out]) == 2
    assert "clip.wav: no sound that can be read" in capsys.readouterr().err
    np.save(tmp_path / "mel.npy", np.ones((3, 9)))
    assert main(["vocode", str(run), str(tmp_path / "mel.npy"), *out]) == 2
    assert "a log-mel spectrogram of shape [40, T]" in capsys.readouterr().err
    assert main(["sample", str(run)]) == 2
    assert "HiFiGANGenerator draws nothing by itself" in capsys.readouterr().err


def test_scores_are_of_clips_that_are_held_out(run):
    scores = {s.metric: s for s in evaluate_checkpoint(run, Evaluation(samples=50))}
    arms = ("", "_initial", "_griffin_lim")
    assert scores.keys() == {f"{metric}{arm}" for metric in ("mel", "stft") for arm in arms}
    assert all(math.isfinite(score.value) for score in scores.values())
    assert scores["mel"].setting["windows"] == 4
    assert scores["mel"].setting["clips"] == "held out"
    assert scores["mel_griffin_lim"].value < scores["mel_initial"].value
    other = evaluate_checkpoint(run, Evaluation(data=str(noises() / "0.wav")))
    assert other[0].setting["clips"] == "trained on"
    pictures, columns = held_out_spectrograms(run, 2, 768)
    assert (tuple(pictures.shape), columns) == ((6, 1, 40, 12), 3)


@NEEDS_ONNX
def test_the_generator_runs_as_onnx_on_any_length(run, tmp_path):
    path = tmp_path / "generator.onnx"
    assert main(["export", str(run), "-o", str(path)]) == 0
    generator = load_generator(run)
    for shape in ((3, 40, 8), (1, 40, 37)):
        assert_onnx(path, generator, torch.randn(shape))
