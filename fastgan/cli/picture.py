"""fastgan picture KIND CHECKPOINT"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from fastgan.checks import check_int
from fastgan.cli._common import check_seed, parse
from fastgan.cli._output import output_file
from fastgan.data import load
from fastgan.engine import load_generator, pictures, save_grid
from fastgan.engine.device import take_device
from fastgan.engine.grid import check_picture, scale_of, screen_scale
from fastgan.recipes.evaluation import run_data_of

Kind = Literal["classes", "interpolation", "reconstructions", "nearest", "evolution"]


@dataclass(frozen=True)
class Arguments:
    """Pictures of a checkpoint: a row a class; spherical interpolation between latent vectors; test
    or training images beside their reconstructions; samples beside the real images nearest to them;
    or the sample grids of a run as a GIF."""

    kind: tyro.conf.Positional[Kind]
    """Which picture."""
    checkpoint: tyro.conf.Positional[Path]
    """A checkpoint's folder, or a run's (its newest checkpoint); evolution needs a run's."""
    rows: int = 8
    """Rows, where the picture leaves a choice."""
    columns: int = 10
    """Columns, where the picture leaves a choice."""
    seed: int = 0
    """Seed of the noise."""
    data: str | None = None
    """Real images; by default those of the run."""
    split: Literal["train", "test"] = "train"
    """train or test, of data that has splits."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """The file to write; by default KIND.png, or evolution.gif."""
    force: bool = False
    """Write over the file that stands there."""
    weights: Literal["ema", "raw"] = "ema"
    """The moving average of the generator, or the weights that were being trained."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto takes a GPU where there is one."""


def run(arguments: list[str]) -> int:
    chosen = parse(Arguments, arguments, prog="fastgan picture")
    suffix = "gif" if chosen.kind == "evolution" else "png"
    named = chosen.out or Path(f"{chosen.kind}.{suffix}")
    out = output_file(named, chosen.force)
    if chosen.kind == "evolution":
        pictures.evolution(chosen.checkpoint, out)
    else:
        images, columns = _draw(chosen)
        save_grid(images, out, columns=columns, scale=screen_scale(images))
    print(named)
    return 0


def _draw(chosen: Arguments) -> tuple[torch.Tensor, int]:
    """The images of the picture, and how many stand in a row."""
    for name in ("rows", "columns"):
        check_int(name, getattr(chosen, name), 1)
    check_seed(chosen.seed)
    generator: Any = load_generator(
        chosen.checkpoint, weights=chosen.weights, device=take_device(chosen.device)
    )
    _check_size(generator, chosen)
    if chosen.kind == "classes":
        images, columns = pictures.by_class(generator, chosen.columns, seed=chosen.seed)
    elif chosen.kind == "interpolation":
        images, columns = pictures.interpolation(
            generator, chosen.rows, chosen.columns, seed=chosen.seed
        )
    elif chosen.kind == "reconstructions":
        reals = _reals(generator, chosen, limit=chosen.rows * chosen.rows)
        size = generator.image_size
        check_picture(2 * len(reals), size, size, scale=scale_of(size))
        images, columns = pictures.reconstruction_pairs(generator, reals.float() / 127.5 - 1)
    else:
        reals = _reals(generator, chosen, limit=None)
        images, columns = pictures.nearest_real(
            generator, reals, chosen.rows, chosen.columns - 1, seed=chosen.seed
        )
    return images, columns


def _check_size(generator: Any, chosen: Arguments) -> None:
    """Before anything is loaded or drawn, as far as flags say how large the picture gets."""
    size = generator.image_size
    if chosen.kind == "classes":
        count, columns = generator.num_classes * chosen.columns, chosen.columns
    elif chosen.kind == "reconstructions":
        return  # as many as there are images
    else:
        count, columns = chosen.rows * chosen.columns, chosen.columns
    check_picture(max(count, 1), size, size, columns, scale_of(size))


def _reals(generator: Any, chosen: Arguments, limit: int | None) -> torch.Tensor:
    run = run_data_of(chosen.checkpoint)
    return load(
        chosen.data or run.data,
        image_size=generator.image_size,
        channels=generator.channels,
        resize=run.resize,
        limit=limit,
        split=chosen.split,
    ).images
