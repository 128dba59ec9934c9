"""Recipes at tiny width."""

from __future__ import annotations

import dataclasses

from fastgan.recipes import ModelSpec, Recipe, get_recipe

# The recipes of large images train at the smallest size of their family.
SIZES = {"dcgan-64": 16, "dcgan-128": 32, "pix2pix": 16}


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
        if spec.name == "unet":
            arguments["depth"] = 2
        if "max_width" in arguments:
            arguments["max_width"] = 16
        if "image_size" in arguments:
            arguments["image_size"] = size
        return ModelSpec(spec.name, arguments)

    few = {"count": 64} if hasattr(recipe.data, "count") else {}
    return dataclasses.replace(
        recipe,
        data=dataclasses.replace(recipe.data, **few),
        generator=small(recipe.generator),
        discriminator=small(recipe.discriminator),
        image_size=size,
    )
