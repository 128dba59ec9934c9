"""fastgan explain [RECIPE]"""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from fastgan.cli._checkout import in_checkout
from fastgan.cli._common import parse
from fastgan.engine.device import take_device
from fastgan.engine.precision import Precision
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
    roofline: bool = False
    """In a source checkout: instead list every kernel of a training step, with its roofline bound
    on a GPU that need not be there."""
    gpu: str = "H200 SXM"
    """With --roofline: whose data sheet gives the bounds: A100 80GB SXM, H100 SXM, H200 SXM, B200,
    RTX 4090."""
    precision: Precision = "float32"
    """With --roofline: float32, tf32, bfloat16 or float16."""


def run(arguments: list[str]) -> int:
    chosen = parse(Arguments, arguments, prog="fastgan explain")
    recipe = get_recipe(chosen.recipe)
    if chosen.roofline:
        options = [f"--batch-size={chosen.batch_size}", f"--precision={chosen.precision}"]
        return in_checkout("bench.roofline", chosen.recipe, *options, f"--gpu={chosen.gpu}")
    if chosen.gpu != Arguments.gpu or chosen.precision != Arguments.precision:
        raise ValueError("--gpu and --precision belong to --roofline")
    explain_recipe(recipe, chosen.batch_size, take_device(chosen.device))
    return 0
