"""`fastgan train`, `eval`, `translate` and `export` towards a picture's style, at tiny width."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx_files import NEEDS_ONNX, assert_onnx
from PIL import Image

from fastgan.cli import main
from fastgan.engine import CheckpointError, find_checkpoint, load_generator
from fastgan.engine.log import SilentReporter
from fastgan.engine.styling import read_style
from fastgan.recipes import override, train
from fastgan.recipes.evaluation import Evaluation, evaluate_checkpoint, held_out_triples

from .tiny_recipe import tiny

SHORT = {"batch_size": 4, "sample_count": 2, "device": "cpu", "held_out": 0.3}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Of a style whose file is gone."""
    folder = tmp_path_factory.mktemp("style")
    file = folder / "style.png"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 80, 3), dtype=np.uint8)).save(file)
    (folder / "images").mkdir()
    for i in range(12):
        pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels // 2 + 10 * i).save(folder / "images" / f"{i:02}.png")
    recipe = override(tiny("style"), style=str(file), style_size=64)
    data = {"data": str(folder / "images"), **SHORT}
    train(recipe, out=folder / "run", steps=2, reporter=SilentReporter(), **data)
    kept = read_style(str(file), 64, 3)
    file.unlink()
    assert torch.equal(find_checkpoint(folder / "run").tensors("extra")["step.picture"], kept)
    return folder / "run"


def test_both_losses_are_measured_without_the_file(run):
    scores = {s.metric: s for s in evaluate_checkpoint(run, Evaluation(split="test"))}
    ways = ("", "_unchanged", "_picture")
    assert scores.keys() == {f"{kind}{way}" for kind in ("content", "style") for way in ways}
    assert scores["content_unchanged"].value == 0
    assert scores["style_picture"].value < min(
        scores["style"].value, scores["style_unchanged"].value
    )
    assert scores["content_picture"].value > 0
    assert scores["style"].setting["reals"] == 3
    chosen = Evaluation(metrics=("style",))
    assert {s.metric for s in evaluate_checkpoint(run, chosen)} == {f"style{way}" for way in ways}
    with pytest.raises(ValueError, match="unknown metric 'fid': there are content, style"):
        evaluate_checkpoint(run, Evaluation(metrics=("fid",)))
    images, made, style = held_out_triples(run, 3)
    assert images.shape == made.shape == style.shape == (3, 3, 16, 16)


def test_a_run_goes_on_with_its_own_picture_alone(run):
    with pytest.raises(FileNotFoundError, match=r"style\.png"):
        train(tiny("style"), out=run, resume=True, steps=3, reporter=SilentReporter())
    other = {"style": "waves", "steps": 3}
    with pytest.raises(CheckpointError, match=r"style: .* in the checkpoint, 'waves' now"):
        train(tiny("style"), out=run, resume=True, reporter=SilentReporter(), **other)


def test_an_image_of_any_size_is_translated(run, tmp_path, capsys):
    image, out = tmp_path / "image.png", tmp_path / "out.png"
    Image.fromarray(np.arange(21 * 30 * 3, dtype=np.uint8).reshape(21, 30, 3)).save(image)
    assert main(["translate", str(run), str(image), "-o", str(out), "--device", "cpu"]) == 0
    with Image.open(out) as found:
        assert found.size == (30, 21)
    assert main(["sample", str(run)]) == 2
    assert "ResNetTranslator draws nothing by itself" in capsys.readouterr().err


@NEEDS_ONNX
def test_the_generator_runs_as_onnx(run, tmp_path):
    path = tmp_path / "generator.onnx"
    assert main(["export", str(run), "-o", str(path)]) == 0
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    assert_onnx(path, load_generator(run), images)
