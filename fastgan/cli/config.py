"""fastgan config RECIPE"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

import tyro

from fastgan.cli._common import parse
from fastgan.recipes import get_recipe
from fastgan.recipes.config_file import as_text, schema


@dataclass(frozen=True)
class Arguments:
    """Print a file with all settings of a recipe, for `fastgan train --config FILE`."""

    recipe: tyro.conf.Positional[str] = "digits"
    """A recipe; `fastgan recipes` lists them."""
    format: Literal["yaml", "toml"] = "yaml"
    """Of the file."""
    schema: bool = False
    """Print the JSON schema of such files instead, for an editor."""


def run(arguments: list[str]) -> int:
    chosen = parse(Arguments, arguments, prog="fastgan config")
    recipe = get_recipe(chosen.recipe)
    if chosen.schema:
        print(json.dumps(schema(), indent=1))
    else:
        print(as_text(recipe, chosen.format), end="")
    return 0
