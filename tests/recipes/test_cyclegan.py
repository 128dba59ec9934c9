"""Two folders without pairs: trained, measured, translated both ways, exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_files import NEEDS_ONNX, assert_onnx
from PIL import Image

from fastgan.cli import main
from fastgan.engine import load_generator
from fastgan.engine.log import SilentReporter
from fastgan.engine.restoring import towards, translate
from fastgan.models import create_model
from fastgan.recipes import train
from fastgan.recipes.evaluation import Evaluation, evaluate_checkpoint, held_out_triples
from fastgan.recipes.tuning import explain_recipe

from .tiny_recipe import tiny

SETTINGS = {"steps": 2, "batch_size": 2, "device": "cpu", "sample_count": 3, "ema_decay": 0.0}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """Twelve squares of colour, and seven larger ones of grey."""
    rng = np.random.default_rng(0)
    found = []
    for name, count, shape in (("a", 12, (16, 16, 3)), ("b", 7, (24, 20))):
        folder = tmp_path_factory.mktemp(name)
        for i in range(count):
            pixels = rng.integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i:02}.png")
        found.append(folder)
    return found[0], found[1]


@pytest.fixture(scope="module")
def run(folders, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "cyclegan"
    data = {"data": str(folders[0]), "data_b": str(folders[1]), "held_out": 0.3, "image_size": "16"}
    train(tiny("cyclegan"), out=out, reporter=SilentReporter(), **data, **SETTINGS)
    return out


def test_both_ways_are_measured_on_what_was_held_out(run):
    scores = {s.metric: s for s in evaluate_checkpoint(run, Evaluation(split="test"))}
    kinds = {"fooled", "unchanged", "psnr", "ssim", "kept"}
    assert scores.keys() == {f"{k}_{d}" for k in kinds for d in "ab"} | {"accuracy"}
    assert scores["psnr_a"].setting["reals"] == 3 + 2
    assert scores["psnr_a"].setting["classifier_trained_on"] == 9 + 5
    errors = scores["unchanged_a"].value + scores["unchanged_b"].value
    assert scores["accuracy"].value == pytest.approx(1 - errors / 2)
    chosen = Evaluation(metrics=("psnr",), split="test")
    assert {s.metric for s in evaluate_checkpoint(run, chosen)} == {"psnr_a", "psnr_b"}
    given, made, again = held_out_triples(run, 4)
    forth, back = load_generator(run).forth, load_generator(run).back
    assert torch.equal(made[:2], translate(forth, given[:2]))
    assert torch.equal(again[:2], translate(back, made[:2]))
    assert torch.equal(again[2:], translate(forth, translate(back, given[2:])))
    for wrong, message in (
        (Evaluation(metrics=("fid",)), "unknown metric 'fid': there are fooled, unchanged, psnr"),
        (Evaluation(data="mnist5k"), "a run of two sets is measured on these"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate_checkpoint(run, wrong)


def test_an_image_is_translated_either_way(run, folders, tmp_path, capsys):
    pixels = {}
    image = folders[1] / "00.png"
    for to in ("a", "b"):
        out = tmp_path / f"{to}.png"
        arguments = ["translate", run, image, "--to", to, "-o", out, "--device", "cpu"]
        assert main([*map(str, arguments)]) == 0
        with Image.open(out) as found:
            assert found.size == (20, 24)
            pixels[to] = np.asarray(found)
    assert (pixels["a"] != pixels["b"]).any()
    assert main(["translate", str(run), str(image), "-o", str(tmp_path / "c.png")]) == 0
    assert (np.asarray(Image.open(tmp_path / "c.png")) == pixels["b"]).all()
    capsys.readouterr()
    assert main(["translate", str(run), str(image), "--of-photo"]) == 2
    assert "of_photo needs a run whose conditions are made" in capsys.readouterr().err
    assert main(["sample", str(run)]) == 2
    assert "CycleGenerator draws nothing by itself" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"to is of a generator between two .*, got UNet"):
        towards(create_model("unet", width=8, depth=2), "a")


def test_data_that_do_not_fit_are_refused(folders, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    a = str(folders[0])
    for data, message in (
        (
            {"data": a, "data_b": ""},
            "cyclegan is for two sets of images of your own: give it --data PATH and",
        ),
        ({"data": a, "data_b": str(empty)}, "empty: no image in this folder"),
        ({"data": a, "data_b": str(tmp_path / "no")}, "neither a path that exists"),
        ({"data": a, "data_b": str(folders[1]), "batch_size": 8}, "has 7 images"),
        ({"data": a, "data_b": str(folders[1]), "image_size": "18"}, "multiples of 4"),
    ):
        settings = SETTINGS | data
        with pytest.raises((ValueError, OSError), match=message):
            train(tiny("cyclegan"), out=tmp_path / "run", reporter=SilentReporter(), **settings)


@NEEDS_ONNX
def test_a_way_runs_as_onnx(run, tmp_path):
    path = tmp_path / "back.onnx"
    assert main(["export", str(run), "--to", "a", "-o", str(path)]) == 0
    images = torch.rand(3, 3, 16, 16) * 2 - 1  # a batch of another size than the example's
    assert_onnx(path, load_generator(run).back, images)


def test_explain_tells_of_the_blocks(capsys):
    explain_recipe(tiny("cyclegan"), 2, torch.device("cpu"))
    told = capsys.readouterr().out
    assert told.count("up.1.norm") == 2
    assert told.count("blocks.1.norm") == 2
