"""fastgan picture KIND CHECKPOINT"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from safetensors.torch import save as encode

from fastgan.checks import check_int, sides
from fastgan.cli._common import check_seed, parse
from fastgan.cli._drawing import load_drawing
from fastgan.cli._output import output_file, picture_file
from fastgan.data import ImageDataset, load
from fastgan.engine import pictures, save_grid
from fastgan.engine.grid import check_picture, check_still, scale_of, screen_scale
from fastgan.recipes.evaluation import run_data_of
from fastgan.system import whole_file

Kind = Literal[
    "classes", "interpolation", "walk", "projection", "reconstructions", "nearest", "evolution"
]
FILMS = ("walk", "evolution")


@dataclass(frozen=True)
class Arguments:
    """Pictures of a checkpoint: a row a class; spherical interpolation between latent vectors; a
    walk through them as a film; images beside the nearest that the generator can draw; test or
    training images beside their reconstructions; samples beside the real images nearest to them;
    or the sample grids of a run as a film."""

    kind: tyro.conf.Positional[Kind]
    """Which picture."""
    checkpoint: tyro.conf.Positional[Path]
    """A checkpoint's folder, or a run's (its newest checkpoint); evolution needs a run's."""
    rows: int = 8
    """Rows, where the picture leaves a choice."""
    columns: int = 10
    """Columns, where the picture leaves a choice."""
    frames: int = 24
    """Of a walk: frames from one latent vector to the next."""
    points: int = 6
    """Of a walk: latent vectors that it passes."""
    truncation: float | None = None
    """Of a walk: keep its latent vectors within ± so much."""
    steps: int = 300
    """Of a projection: steps of the search for each latent vector."""
    latents: Path | None = None
    """Of a projection: also write the latent vectors found, a safetensors file."""
    seed: int = 0
    """Seed of the noise."""
    data: str | None = None
    """Real images; by default those of the run."""
    split: Literal["train", "test"] = "train"
    """train or test, of data that has splits."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """The file to write; by default pictures/KIND.png in the run's folder (or .jpg, .webp), of a
    film KIND.gif (or .webp, .png, .mp4)."""
    force: bool = False
    """Write over the file that stands there."""
    model: str | None = None
    """Of a run of your own networks: package.module:attribute that is the generator, or makes it
    without arguments."""
    weights: Literal["ema", "raw"] = "ema"
    """The moving average of the generator, or the weights that were being trained."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto takes a GPU where there is one."""


def run(arguments: list[str]) -> int:
    chosen = parse(Arguments, arguments, prog="fastgan picture")
    suffix = "gif" if chosen.kind in FILMS else "png"
    named = picture_file(chosen.out, chosen.checkpoint, f"{chosen.kind}.{suffix}")
    if chosen.latents is not None and chosen.kind != "projection":
        raise ValueError(
            f"latents is of picture projection, which finds some, not of {chosen.kind}"
        )
    out = output_file(named, chosen.force)
    if chosen.kind not in FILMS:
        check_still(out)
    if chosen.kind == "evolution":
        pictures.evolution(chosen.checkpoint, out)
    elif chosen.kind == "walk":
        _walk(chosen, out)
    else:
        images, columns = _draw(chosen)
        save_grid(images, out, columns=columns, scale=screen_scale(images))
    print(named)
    return 0


def _loaded(chosen: Arguments) -> Any:
    for name in ("rows", "columns"):
        check_int(name, getattr(chosen, name), 1)
    check_seed(chosen.seed)
    return load_drawing(chosen.checkpoint, chosen.weights, chosen.device, chosen.model)


def _walk(chosen: Arguments, out: Path) -> None:
    generator = _loaded(chosen)
    _check_size(generator, chosen)
    pictures.walk(
        generator,
        out,
        rows=chosen.rows,
        columns=chosen.columns,
        points=chosen.points,
        frames=chosen.frames,
        seed=chosen.seed,
        truncation=chosen.truncation,
    )


def _draw(chosen: Arguments) -> tuple[torch.Tensor, int]:
    """The images of the picture, and how many stand in a row."""
    generator = _loaded(chosen)
    _check_size(generator, chosen)
    if chosen.kind == "classes":
        images, columns = pictures.by_class(generator, chosen.columns, seed=chosen.seed)
    elif chosen.kind == "interpolation":
        images, columns = pictures.interpolation(
            generator, chosen.rows, chosen.columns, seed=chosen.seed
        )
    elif chosen.kind in ("reconstructions", "projection"):
        data = _reals(generator, chosen, limit=chosen.rows * chosen.rows)
        height, width = sides(generator.image_size)[-2:]
        check_picture(2 * len(data), height, width, scale=scale_of(width))
        reals = data.images.float() / 127.5 - 1
        if chosen.kind == "reconstructions":
            return pictures.reconstruction_pairs(generator, reals)
        labels = data.labels if getattr(generator, "num_classes", 0) else None
        images, columns = _project(chosen, generator, reals, labels)
    else:
        reals = _reals(generator, chosen, limit=None).images
        images, columns = pictures.nearest_real(
            generator, reals, chosen.rows, chosen.columns - 1, seed=chosen.seed
        )
    return images, columns


def _check_size(generator: Any, chosen: Arguments) -> None:
    """Before anything is loaded or drawn, as far as flags say how large the picture gets."""
    height, width = sides(generator.image_size)[-2:]
    if chosen.kind == "classes":
        count, columns = generator.num_classes * chosen.columns, chosen.columns
    elif chosen.kind in ("reconstructions", "projection"):
        return  # as many as there are images
    else:
        count, columns = chosen.rows * chosen.columns, chosen.columns
    check_picture(max(count, 1), height, width, columns, scale_of(width))


def _project(
    chosen: Arguments, generator: Any, reals: torch.Tensor, labels: torch.Tensor | None
) -> tuple[torch.Tensor, int]:
    latents = None if chosen.latents is None else output_file(chosen.latents, chosen.force)
    images, columns, found = pictures.projections(
        generator, reals, labels=labels, steps=chosen.steps, seed=chosen.seed
    )
    if latents is not None:
        with whole_file(latents) as file:
            file.write(encode({"latents": found.latents}))
    # Of values in [-1, 1], whose range is 2.
    decibels = 10 * torch.log10(4 / found.distances.clamp_min(1e-10))
    print(f"PSNR {decibels.mean():.2f} dB, the mean of {len(reals)} images", file=sys.stderr)
    return images, columns


def _reals(generator: Any, chosen: Arguments, limit: int | None) -> ImageDataset:
    run = run_data_of(chosen.checkpoint)
    return load(
        chosen.data or run.data,
        image_size=generator.image_size,
        channels=generator.channels,
        resize=run.resize,
        max_pixels=run.max_pixels,
        limit=limit,
        split=chosen.split,
    ).as_bytes()
