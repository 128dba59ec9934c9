"""Every recipe, at tiny width: it trains, its images have their shape, and it resumes exactly.

The whole run is watched and the one in parts is not: looking leaves every tensor as it is.
"""

from __future__ import annotations

import json
import math

import pytest
import torch
from PIL import Image

from fastgan.checks import sides
from fastgan.engine import find_checkpoint, load_generator, sample_images
from fastgan.engine.log import SilentReporter
from fastgan.recipes import get_recipe, list_recipes, train
from fastgan.recipes.run import build_models

from .tiny_recipe import tiny

SHORT = {"batch_size": 4, "limit": 40, "sample_count": 4, "log_every": 1, "device": "cpu"}
NAMES = [recipe.name for recipe in list_recipes()]


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_trains_samples_and_resumes(name, tmp_path):
    recipe = tiny(name)
    watched = {"steps": 3, "watch_every": 1, "reporter": SilentReporter()}
    whole = train(recipe, out=tmp_path / "whole", **watched, **SHORT)
    lines = [json.loads(line) for line in (whole.out / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 3
    assert all(math.isfinite(value) for line in lines for value in line.values())
    assert lines[-1]["skipped"] == 0
    assert lines[0]["spectral_g"] > 0

    generator = load_generator(whole.checkpoint)
    conditions = None
    if hasattr(generator, "condition_channels"):
        given = (side // generator.scale for side in sides(recipe.image_size))
        conditions = torch.zeros(3, generator.condition_channels, *given)
        assert (whole.out / "samples" / "reconstructions-00000003.png").exists()
    images = sample_images(generator, 3, labels=conditions)
    # The characters of a text are known with the text alone.
    channels = images.shape[1] if images.dim() == 3 else recipe.channels
    assert images.shape == (3, channels, *sides(recipe.image_size))
    assert images.isfinite().all()
    if images.dim() > 3:
        with Image.open(whole.samples) as grid:
            assert min(grid.size) > 2 * images.shape[-1]

    out = tmp_path / "parts"
    train(recipe, out=out, steps=1, reporter=SilentReporter(), **SHORT)
    parts = train(recipe, out=out, resume=True, steps=3, reporter=SilentReporter())
    for file in find_checkpoint(whole.checkpoint).manifest["files"]:
        part = file.removesuffix(".safetensors")
        expected = find_checkpoint(whole.checkpoint).tensors(part)
        actual = find_checkpoint(parts.checkpoint).tensors(part)
        assert expected.keys() == actual.keys()
        assert all(torch.equal(value, actual[key]) for key, value in expected.items()), part


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_builds_at_full_size(name):
    recipe = get_recipe(name)
    with torch.device("meta"):
        generator, discriminator = build_models(recipe)
    assert generator.channels == recipe.channels
    if hasattr(generator, "condition_channels"):  # of images of any size, or sounds of any length
        return
    assert generator.image_size == recipe.image_size
    if discriminator is not None:
        assert discriminator.image_size == recipe.image_size
        numbers = getattr(generator, "conditions", 0)
        classes = 10 if recipe.train.conditional and not numbers else 0
        assert getattr(generator, "num_classes", 0) == classes
