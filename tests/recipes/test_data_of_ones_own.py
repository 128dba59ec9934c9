"""Recipes at another size, and on data that are handed over."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from fastgan.checks import parse_size
from fastgan.cli.picture import run as picture
from fastgan.cli.sample import run as sample
from fastgan.engine import load_generator
from fastgan.engine.log import SilentReporter
from fastgan.recipes import train

from .tiny_recipe import tiny

SHORT = {"batch_size": 4, "sample_count": 4, "log_every": 1, "device": "cpu"}


def test_a_recipe_of_another_size_resumes_samples_and_is_drawn(tmp_path):
    settings = {**SHORT, "limit": 20, "reporter": SilentReporter()}
    out = tmp_path / "run"
    train(tiny("digits"), out=out, image_size="12x20", steps=1, **settings)
    result = train(tiny("digits"), out=out, resume=True, steps=2, reporter=SilentReporter())
    assert load_generator(result.checkpoint).image_size == (12, 20)
    with Image.open(result.samples) as grid:
        assert grid.size == (3 * (2 * 22 + 2), 3 * (2 * 14 + 2))
    sample([str(out), "-n", "1", "-o", str(tmp_path / "one.png")])
    picture(["interpolation", str(out), "--rows", "1", "--columns", "2", "-o", str(tmp_path / "i")])
    with Image.open(tmp_path / "one.png") as grid:
        assert grid.size == (3 * (22 + 2), 3 * (14 + 2))


@pytest.mark.parametrize("text", ["", "x", "12x", "12x20x3", "a", "-8", "12.5"])
def test_sizes_that_are_none(text):
    with pytest.raises(ValueError, match="image_size must be a number or HEIGHTxWIDTH"):
        parse_size("image_size", text)
    assert parse_size("image_size", "96X160") == (96, 160)
    assert parse_size("image_size", "64") == parse_size("image_size", "64x64") == 64


def test_train_takes_a_dataset_of_torch(tmp_path):
    recipe = tiny("digits")
    data = TensorDataset(torch.rand(12, 1, recipe.image_size, recipe.image_size))
    settings = {**SHORT, "data": data, "reporter": SilentReporter()}
    train(recipe, out=tmp_path / "run", steps=1, **settings)
    result = train(recipe, out=tmp_path / "run", resume=True, steps=2, data=data)
    assert result.finished
    with pytest.raises(ValueError, match=r"data: "):
        train(recipe, out=tmp_path / "run", resume=True, steps=3, data="mnist5k")


def test_a_size_that_cannot_be_is_told_before_data_are_read(tmp_path):
    with pytest.raises(ValueError, match=r"image_size must have sides .* the nearest is 64"):
        train("dcgan-64", data=str(tmp_path / "none"), image_size="63", out=tmp_path / "run")


def test_a_run_that_stands_is_told_before_data_are_read(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds no run: found thesis"):
        train("digits", data=str(tmp_path / "none"), out=tmp_path / "run")
