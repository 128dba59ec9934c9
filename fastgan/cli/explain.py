"""fastgan explain [RECIPE]"""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from fastgan.cli._common import parse
from fastgan.engine.trainer import resolve_device
from fastgan.recipes import get_recipe
from fastgan.recipes.tuning import explain_recipe


@dataclass(frozen=True)
class Arguments:
    """How the blocks of a recipe's networks run on this machine."""

    recipe: tyro.conf.Positional[str] = "dcgan-64"
    """A recipe; `fastgan recipes` lists them."""
    batch_size: int = 64
    """Images a batch."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto takes a GPU where there is one."""


def run(arguments: list[str]) -> int:
    chosen = parse(Arguments, arguments, prog="fastgan explain")
    explain_recipe(get_recipe(chosen.recipe), chosen.batch_size, resolve_device(chosen.device))
    return 0
