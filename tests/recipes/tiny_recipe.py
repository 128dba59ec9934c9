"""Recipes at tiny width."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from fastgan.data.audio import save_sound
from fastgan.recipes import (
    AudioConfig,
    ModelSpec,
    Recipe,
    TextConfig,
    UnpairedConfig,
    get_recipe,
)

# A text that every checkout has.
TEXT = Path(__file__).resolve().parents[2] / "LICENSE"

# The recipes of large images train at the smallest size of their family.
SIZES = {"dcgan-64": 16, "dcgan-128": 32, "pix2pix": 16, "text-gan": (8,), "text-rnn": (8,)}
SIZES |= dict.fromkeys(("super-resolution", "srgan", "inpainting", "few-shot"), 32)
SIZES |= {"modern-64": 16, "wavegan": (256,), "vocoder": (512,), "cyclegan": 8, "style": 16}
# Of spectrograms and waveforms: a block a stage, and few discriminators.
VOCODER = {
    "hifigan_generator": {"kernels": [3], "dilations": [[1, 2]]},
    "hifigan_discriminator": {"width": 1, "periods": [3], "scales": 1},
}
_sounds = TemporaryDirectory(prefix="fastgan-sounds-")  # until the tests end


@cache
def noises() -> Path:
    """A folder of two short sounds."""
    folder = Path(_sounds.name)
    rng = torch.Generator().manual_seed(0)
    for i in range(2):
        save_sound(torch.empty(1000).uniform_(-0.5, 0.5, generator=rng), 8000, folder / f"{i}.wav")
    return folder


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
        if "length" in arguments:
            (arguments["length"],) = size
        smallest = {"depth": 2, "blocks": 1}
        if spec.name.startswith("cycle"):  # four networks, run three times a step
            arguments["width"] = 4
            smallest["layers"] = 1
        arguments |= {k: n for k, n in smallest.items() if k in arguments}
        if "max_width" in arguments:
            arguments["max_width"] = 16
        if "image_size" in arguments:
            arguments["image_size"] = size
        return ModelSpec(spec.name, arguments | VOCODER.get(spec.name, {}))

    few: dict[str, Any] = {"count": 64} if hasattr(recipe.data, "count") else {}
    if isinstance(recipe.data, TextConfig):
        few = {"data": str(TEXT)}
    if isinstance(recipe.data, AudioConfig):
        few = {"data": str(noises())}
    if isinstance(recipe.data, UnpairedConfig):
        few = {"data": "mnist5k", "data_b": "mnist5k"}
    objective = recipe.objective
    if hasattr(objective, "image_buffer"):  # soon full
        objective = dataclasses.replace(objective, image_buffer=6)
    return dataclasses.replace(
        recipe,
        objective=objective,
        data=dataclasses.replace(recipe.data, **few),
        generator=small(recipe.generator),
        discriminator=small(recipe.discriminator),
        image_size=size,
    )
