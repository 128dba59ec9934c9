"""`fastgan train`, `sample` and `eval` of texts, on runs of tiny width."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from fastgan.cli import main
from fastgan.engine.log import SilentReporter
from fastgan.engine.objectives import LanguageObjective
from fastgan.metrics import Score
from fastgan.models import create_model
from fastgan.recipes import train
from fastgan.recipes.evaluation import Evaluation, evaluate_checkpoint

from .tiny_recipe import TEXT, tiny

SHORT = {"steps": 2, "batch_size": 4, "sample_count": 3, "device": "cpu"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    for name in ("text-gan", "text-rnn"):
        train(tiny(name), out=folder / name, reporter=SilentReporter(), **SHORT)
    return {name: folder / name for name in ("text-gan", "text-rnn")}


def scores_of(path: Path, *metrics: str, **settings) -> dict[str, Score]:
    chosen = Evaluation(metrics=metrics or None, samples=50, **settings)
    return {score.metric: score for score in evaluate_checkpoint(path, chosen)}


def test_samples_are_lines_of_text(runs, capsys, tmp_path):
    (samples,) = (runs["text-rnn"] / "samples").iterdir()
    lines = samples.read_text(encoding="utf-8").splitlines()
    assert [len(line) for line in lines] == [8] * 3
    assert main(["sample", str(runs["text-rnn"]), "-n", "2"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [len(line) for line in printed] == [8] * 2
    out = tmp_path / "texts.txt"
    likely = ["--temperature", "0.001", "-o", str(out)]
    assert main(["sample", str(runs["text-rnn"]), "-n", "2", *likely]) == 0
    first, second = out.read_text(encoding="utf-8").splitlines()
    assert first == second
    assert main(["sample", str(runs["text-rnn"]), "-n", "2", *likely]) == 2
    assert "stands already" in capsys.readouterr().err
    for run, option, message in (
        ("text-gan", "0.5", "temperature is of language models; TextGenerator is none"),
        ("text-rnn", "0", "temperature must be a positive number, got 0.0"),
    ):
        assert main(["sample", str(runs[run]), f"--temperature={option}"]) == 2
        assert message in capsys.readouterr().err


def test_texts_are_compared_with_what_was_held_out(runs, tmp_path):
    scores = scores_of(runs["text-gan"])
    assert len(scores) == 3 * 4
    setting = scores["js2"].setting
    assert (setting["windows"], setting["length"]) == (50, 8)
    assert all(0 <= score.value <= 1 for score in scores.values())
    # Half of the real text is nearer to the other than letters drawn one by one.
    assert scores["js3_floor"].value < scores["js3_unigram"].value < 1
    assert scores_of(runs["text-gan"], "js2")["js2"].value == scores["js2"].value
    bits = scores_of(runs["text-rnn"], "bits")["bits"]
    # Two steps from a model that knows nothing.
    assert bits.value == pytest.approx(math.log2(len(_characters(runs["text-rnn"]))), rel=0.1)
    (tmp_path / "other.txt").write_text("é" * 800, encoding="utf-8")
    other = scores_of(runs["text-rnn"], data=str(tmp_path / "other.txt"))
    assert "80 of 80 characters are not of the alphabet ('é' 80)" in other["js1"].note


def _characters(run: Path) -> str:
    from fastgan.engine import load_generator

    return load_generator(run).characters


def test_what_does_not_fit_is_told(runs, tmp_path, capsys):
    with pytest.raises(ValueError, match="unknown metric 'bits': there are js1, js1_floor"):
        scores_of(runs["text-gan"], "bits")
    short = tmp_path / "short.txt"
    short.write_text("abc" * 7)
    with pytest.raises(ValueError, match="2 characters are trained on, or held out: fewer than a"):
        scores_of(runs["text-gan"], data=str(short))
    out = str(tmp_path / "run")
    assert main(["train", "text-gan", "--steps", "1", "--out", out]) == 2
    assert "text-gan is for a text of your own: give it --data PATH" in capsys.readouterr().err
    assert main(["train", "text-gan", "--data", str(short), "--out", out]) == 2
    assert "19 characters, fewer than a window's 32" in capsys.readouterr().err
    assert not Path(out).exists()
    with pytest.raises(ValueError, match="data: "):
        train(
            tiny("text-gan"), out=runs["text-gan"], resume=True, data=str(TEXT.parent / "README.md")
        )
    with pytest.raises(ValueError, match="objective language needs a language model, such as"):
        LanguageObjective().check(tiny("text-rnn").train, create_model("mlp_generator"), None)
