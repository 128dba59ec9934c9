"""fastgan tune [RECIPE]"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import tyro

from fastgan.checks import check_int
from fastgan.cli._common import parse
from fastgan.engine.device import take_device
from fastgan.ops.conv.tuning import user_table
from fastgan.recipes import get_recipe
from fastgan.recipes.tuning import default_batches, tune_recipe
from fastgan.system import check_writable

_MAX_ROUNDS = 10_000  # more than any median gains from


@dataclass(frozen=True)
class Arguments:
    """Measure how the convolution blocks of a recipe's networks run fastest on this machine."""

    recipe: tyro.conf.Positional[str] = "dcgan-64"
    """fastgan recipes lists them."""
    batch_size: tuple[int, ...] = ()
    """Images a batch, one size or several; a choice holds for the batches that are nearest to its
    size. Without any: 128 and 1024 on a GPU, 64 on a CPU."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto takes a GPU where there is one."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """The dtype of the activations."""
    rounds: int = 10
    """Timed rounds a layer, after three more."""


def run(arguments: list[str]) -> int:
    chosen = parse(Arguments, arguments, prog="fastgan tune")
    check_int("rounds", chosen.rounds, 1, _MAX_ROUNDS)
    # What is measured takes minutes.
    check_writable(user_table())
    device = take_device(chosen.device)
    recipe = get_recipe(chosen.recipe)
    batches = chosen.batch_size or default_batches(device)
    for line in tune_recipe(recipe, batches, device, chosen.dtype, chosen.rounds):
        print(line)
    return 0
