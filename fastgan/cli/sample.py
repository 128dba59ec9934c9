"""fastgan sample CHECKPOINT"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import Tensor

from fastgan.checks import check_int, did_you_mean, sides
from fastgan.cli._common import check_seed, parse
from fastgan.cli._drawing import load_drawing
from fastgan.cli._output import output_file, picture_file
from fastgan.data.audio import save_sound
from fastgan.engine import (
    batch_statistics,
    find_checkpoint,
    load_discriminator,
    rejection_sample,
    sample_images,
    save_grid,
    standing_statistics,
)
from fastgan.engine.device import take_device
from fastgan.engine.film import FORMATS, save_film
from fastgan.engine.grid import (
    as_pictures,
    check_picture,
    check_still,
    picture_of,
    scale_of,
    screen_scale,
)
from fastgan.engine.sampling import set_temperature, to_draw
from fastgan.engine.texts import save_texts, text_lines

_MAX_CLASSES = 2**31 - 1
_SECONDS = 1 / 10  # that a frame of a film stays


@dataclass(frozen=True)
class Arguments:
    """Draw images, texts or sounds from a checkpoint."""

    checkpoint: tyro.conf.Positional[Path]
    """A checkpoint's folder, a run's (its newest checkpoint), or digits: a trained generator of
    handwritten digits that ships with the package."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 64
    """How many images, or texts."""
    seed: int = 0
    """Seed of the noise."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """The PNG, JPEG or WebP to write, a PNG where there is no suffix; by default pictures/grid.png
    in the run's folder. Of films and volumes also a .gif, .webp or .mp4, which shows frame after
    frame, slice after slice; of sounds a .wav, all one after another, in place of spectrograms.
    Texts are printed, or written there."""
    force: bool = False
    """Write over the file that stands there."""
    labels: tuple[str, ...] = ()
    """Classes to draw, in turn, by a generator that takes them, by number (from 0) or by the name
    that they had in the run's data, such as that of their folder; by default all."""
    columns: int | None = None
    """Images a row; by default the grid is about square."""
    truncation: float | None = None
    """Draw noise within ± so much (0.5 to 2): more typical images, less various ones."""
    temperature: float | None = None
    """Of a language model: below 1, likelier texts, less various ones; by default 1."""
    rejection: float | None = None
    """Keep images that the discriminator accepts; nearer to 1 is pickier (0.8). In [0, 1)."""
    statistics: Literal["running", "batch", "standing"] = "running"
    """Of batch norms: those of training; those of the batch of images; or averages over fresh
    batches of the very weights that draw."""
    model: str | None = None
    """Of a run of your own networks: package.module:attribute that is the generator, or makes it
    without arguments."""
    weights: Literal["ema", "raw"] = "ema"
    """The moving average of the generator, or the weights that were being trained."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto takes a GPU where there is one."""


def run(arguments: list[str]) -> int:
    chosen = parse(Arguments, arguments, prog="fastgan sample")
    if chosen.columns is not None:
        check_int("columns", chosen.columns, 1)
    check_int("n", chosen.n, 1)
    check_seed(chosen.seed)
    # Asked for before anything is computed; texts are printed where nothing is asked for.
    asked = None if chosen.out is None else output_file(chosen.out, chosen.force)
    generator: Any = load_drawing(chosen.checkpoint, chosen.weights, chosen.device, chosen.model)
    if chosen.temperature is not None:
        set_temperature(generator, chosen.temperature)
    if hasattr(generator, "characters"):
        lines = text_lines(_draw(chosen, generator, None), generator.characters)
        if asked is not None:
            save_texts(lines, asked)
        print(chosen.out or "\n".join(lines))
        return 0
    named = picture_file(chosen.out, chosen.checkpoint, "grid.png")
    out = asked or output_file(named, chosen.force)
    if hasattr(generator, "rate"):
        return _write_sounds(_draw(chosen, generator, None), generator, out, named)
    if out.suffix.lower() not in FORMATS:
        check_still(out)
    height, width = sides(generator.image_size)[-2:]
    check_picture(chosen.n, height, width, chosen.columns, scale_of(width))
    labels = None
    if chosen.labels:
        classes = [_class(label, chosen.checkpoint) for label in chosen.labels]
        labels = torch.tensor(classes).repeat(-(-chosen.n // len(classes)))[: chosen.n]
    images = _draw(chosen, generator, labels)
    if images.dim() == 5 and out.suffix.lower() in FORMATS and out.suffix.lower() != ".png":
        scale = screen_scale(images)
        frames = [picture_of(frame, chosen.columns, scale) for frame in images.unbind(2)]
        save_film(frames, out, _SECONDS)
    else:
        images = as_pictures(generator, images)
        save_grid(images, out, columns=chosen.columns, scale=screen_scale(images))
    print(named)
    return 0


def _write_sounds(sounds: Tensor, generator: Any, out: Path, named: Path) -> int:
    """One after another as a .wav, else spectrograms."""
    if out.suffix.lower() == ".wav":
        save_sound(sounds.flatten(), generator.rate, out)
    else:
        pictures = as_pictures(generator, sounds)
        save_grid(pictures, out, scale=screen_scale(pictures))
    print(named)
    return 0


def _class(label: str, checkpoint: Path) -> int:
    if label.removeprefix("-").isdecimal():
        return check_int("labels", int(label), -_MAX_CLASSES, _MAX_CLASSES)
    names = find_checkpoint(checkpoint).manifest.get("data", {}).get("classes") or []
    if label not in names:
        known = f": there are {', '.join(names[:20])}" if names else ", whose data had no names"
        raise ValueError(
            f"labels: {label!r} is no class of {checkpoint}{known}{did_you_mean(label, names)}"
        )
    return int(names.index(label))


def _draw(chosen: Arguments, generator: Any, labels: torch.Tensor | None) -> torch.Tensor:
    common: dict[str, Any] = {
        "seed": chosen.seed,
        "labels": labels,
        "truncation": chosen.truncation,
    }
    if chosen.statistics == "standing":
        standing_statistics(generator, seed=chosen.seed)
    if chosen.statistics != "batch":
        generator = to_draw(generator, chosen.n)
    batch = batch_statistics(generator) if chosen.statistics == "batch" else nullcontext()
    with batch:
        if chosen.rejection is None:
            return sample_images(generator, chosen.n, **common)
        found = rejection_sample(
            generator,
            load_discriminator(chosen.checkpoint, device=take_device(chosen.device)),
            chosen.n,
            quantile=chosen.rejection,
            **common,
        )
    print(f"accepted {chosen.n} of {found.drawn} images", file=sys.stderr)
    return found.images
