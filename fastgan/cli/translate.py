"""fastgan translate CHECKPOINT IMAGE"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from fastgan.cli._common import parse
from fastgan.cli._restored import Common, made
from fastgan.data.conditions import CONDITIONS
from fastgan.engine.checkpoint import find_checkpoint
from fastgan.engine.objectives import TranslationObjective, objective_of
from fastgan.engine.restoring import read_image, towards, translate, translator


@dataclass(frozen=True)
class Arguments(Common):
    """What the generator of a pix2pix, cyclegan or style run makes of an image."""

    to: Literal["a", "b"] | None = None
    """Of a cyclegan run: the domain to make an image of, that of its --data (a) or its --data-b (b,
    the default)."""

    of_photo: bool = False
    """The image is one as in the training data: make of it first what the run's --condition makes
    (its edges, say). Without, it is that already."""


def run(arguments: list[str]) -> int:
    chosen = parse(Arguments, arguments, prog="fastgan translate")

    condition = None
    if chosen.of_photo:
        objective = objective_of(find_checkpoint(chosen.checkpoint).manifest)
        if not isinstance(objective, TranslationObjective) or objective.condition == "pairs":
            raise ValueError(
                f"of_photo needs a run whose conditions are made of images, and those of "
                f"{chosen.checkpoint} are the data's own: give it the condition itself"
            )
        condition = CONDITIONS[objective.condition]

    def make(generator: Any) -> Tensor:
        generator = translator(towards(generator, chosen.to))
        if condition is None:
            return translate(generator, read_image(chosen.image, generator.condition_channels))
        return translate(generator, condition(read_image(chosen.image, generator.channels)))

    return made(chosen, "translated.png", make)
