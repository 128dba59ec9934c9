"""fastgan inpaint CHECKPOINT IMAGE MASK"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from fastgan.cli._common import parse
from fastgan.cli._restored import Common, made
from fastgan.engine.restoring import inpaint, read_image


@dataclass(frozen=True)
class Arguments(Common):
    """An image with its hole filled in, by the generator of an inpainting run. Pixels outside the
    mask are those of the image."""

    mask: tyro.conf.Positional[Path]
    """An image of the same size: the hole is where it is brighter than middle grey."""


def run(arguments: list[str]) -> int:
    chosen = parse(Arguments, arguments, prog="fastgan inpaint")
    return made(
        chosen,
        "inpainted.png",
        lambda g: inpaint(g, read_image(chosen.image, g.channels), read_image(chosen.mask, 1)),
    )
