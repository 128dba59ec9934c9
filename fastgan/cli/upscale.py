"""fastgan upscale CHECKPOINT IMAGE"""

from __future__ import annotations

from dataclasses import dataclass

from fastgan.cli._common import parse
from fastgan.cli._restored import Common, made
from fastgan.engine.restoring import read_image, upscale


@dataclass(frozen=True)
class Arguments(Common):
    """An image of any size with more pixels, by the generator of a super-resolution run."""

    tile: int = 256
    """Pixels of the image that are worked on at once, a side: fewer need less memory."""


def run(arguments: list[str]) -> int:
    chosen = parse(Arguments, arguments, prog="fastgan upscale")
    return made(
        chosen,
        "upscaled.png",
        lambda g: upscale(g, read_image(chosen.image, g.channels), chosen.tile),
    )
