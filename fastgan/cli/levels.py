"""fastgan levels CHECKPOINT"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fastgan.checks import check_int
from fastgan.cli._common import check_seed, parse
from fastgan.cli._output import output_file, picture_file
from fastgan.data.levels import level_text
from fastgan.engine import load_generator, sample_images
from fastgan.metrics import playable
from fastgan.models import TileGenerator
from fastgan.system import whole_file

_MAX_COUNT = 10_000
_AT_ONCE = 64


@dataclass(frozen=True)
class Arguments:
    """Draw levels from a checkpoint of tile-gan and write them as text."""

    checkpoint: tyro.conf.Positional[Path]
    """A checkpoint's folder, or a run's (its newest checkpoint)."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 16
    """How many levels."""
    seed: int = 0
    """Seed of the noise."""
    playable: bool = False
    """Only levels that a search has solved; others are drawn in place of the rest."""
    states: int = 20_000
    """With --playable: positions that a search may look at."""
    tries: int = 50
    """With --playable: levels to draw, at most, for each that is asked for."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """The text file to write; by default pictures/levels.txt in the run's folder."""
    force: bool = False
    """Write over the file that stands there."""


def run(arguments: list[str]) -> int:
    chosen = parse(Arguments, arguments, prog="fastgan levels")
    check_int("n", chosen.n, 1, _MAX_COUNT)
    check_int("states", chosen.states, 1)
    check_int("tries", chosen.tries, 1, _MAX_COUNT)
    check_seed(chosen.seed)
    named = picture_file(chosen.out, chosen.checkpoint, "levels.txt")
    out = output_file(named, chosen.force)
    generator = load_generator(chosen.checkpoint)
    if not isinstance(generator, TileGenerator):
        raise ValueError(
            f"levels: the {type(generator).__name__} of {chosen.checkpoint} draws no tiles: give "
            "it a run of tile-gan"
        )
    levels, drawn = _drawn(generator, chosen)
    with whole_file(out) as file:
        text = [f"Level {number}\n\n{level}\n" for number, level in enumerate(levels, 1)]
        file.write("\n".join(text).encode())
    if chosen.playable:
        print(f"{len(levels)} of {drawn} levels were solved", file=sys.stderr)
    print(named)
    return 0


def _drawn(generator: TileGenerator, chosen: Arguments) -> tuple[list[str], int]:
    """The levels as text, and how many were drawn for them; ValueError where too few are solved."""
    if not chosen.playable:
        maps = sample_images(generator, chosen.n, seed=chosen.seed).argmax(1)
        return [level_text(level) for level in maps], chosen.n
    found: list[str] = []
    for start in range(0, chosen.n * chosen.tries, _AT_ONCE):
        maps = sample_images(generator, _AT_ONCE, seed=chosen.seed + start).argmax(1)
        for number, level in enumerate(map(level_text, maps), 1):
            if playable(level.split("\n"), chosen.states) == "solved":
                found.append(level)
            if len(found) == chosen.n:
                return found, start + number
    raise ValueError(
        f"levels: {len(found)} of {chosen.n * chosen.tries} drawn were solved, and {chosen.n} were "
        "asked for: train longer, or raise --tries or --states"
    )
