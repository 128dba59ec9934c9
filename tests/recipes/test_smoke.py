"""Every recipe, at tiny width: it trains, its images have their shape, and it resumes exactly."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from PIL import Image

from fastgan.engine import find_checkpoint, load_generator, sample_images
from fastgan.engine.log import SilentReporter
from fastgan.recipes import ModelSpec, Recipe, get_recipe, list_recipes, train
from fastgan.recipes._run import build_models

# The recipes of large images train at the smallest size of their family.
SIZES = {"dcgan-64": 16, "dcgan-128": 32}
SHORT = {"batch_size": 4, "limit": 40, "sample_count": 4, "log_every": 1, "device": "cpu"}
NAMES = [recipe.name for recipe in list_recipes()]


def tiny(name: str) -> Recipe:
    recipe = get_recipe(name)
    size = SIZES.get(name, recipe.image_size)

    def small(spec: ModelSpec | None) -> ModelSpec | None:
        if spec is None:
            return None
        arguments = dict(spec.arguments)
        if spec.name.startswith("mlp"):
            arguments["hidden"] = (8,)
        else:
            arguments["width"] = 8
        if "max_width" in arguments:
            arguments["max_width"] = 16
        if "image_size" in arguments:
            arguments["image_size"] = size
        return ModelSpec(spec.name, arguments)

    return dataclasses.replace(
        recipe,
        generator=small(recipe.generator),
        discriminator=small(recipe.discriminator),
        image_size=size,
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_trains_samples_and_resumes(name, tmp_path):
    recipe = tiny(name)
    whole = train(recipe, out=tmp_path / "whole", steps=3, reporter=SilentReporter(), **SHORT)
    lines = [json.loads(line) for line in (whole.out / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 3
    assert all(math.isfinite(value) for line in lines for value in line.values())
    assert lines[-1]["skipped"] == 0

    images = sample_images(load_generator(whole.checkpoint), 3)
    assert images.shape == (3, recipe.channels, recipe.image_size, recipe.image_size)
    assert images.isfinite().all()
    with Image.open(whole.samples) as grid:
        assert min(grid.size) > 2 * recipe.image_size

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
    assert generator.image_size == recipe.image_size
    assert generator.channels == recipe.channels
    if discriminator is not None:
        assert discriminator.image_size == recipe.image_size
        assert getattr(generator, "num_classes", 0) == (10 if recipe.train.conditional else 0)
