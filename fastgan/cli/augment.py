"""fastgan augment CHECKPOINT"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from PIL import Image

from fastgan.checks import check_int
from fastgan.cli._common import check_seed, parse
from fastgan.cli._output import output_file
from fastgan.engine import load_discriminator, load_generator, rejection_sample, sample_images
from fastgan.engine.checkpoint import find_checkpoint
from fastgan.engine.device import take_device
from fastgan.engine.grid import make_grid
from fastgan.system import whole_file

MANIFEST = "manifest.json"
_MAX_COUNT = 10**6


@dataclass(frozen=True)
class Arguments:
    """Write samples of each class into folders, as more data for a classifier."""

    checkpoint: tyro.conf.Positional[Path]
    """A checkpoint's folder, or a run's (its newest checkpoint), of a generator with classes."""
    out: Path = Path("augmented")
    """The folder to write: CLASS/NUMBER.png, and manifest.json with how they were drawn. It must
    not be there, or be empty."""
    per_class: int = 100
    """Images of each class."""
    classes: tuple[int, ...] = ()
    """Classes to draw; by default all."""
    seed: int = 0
    """Seed of the noise."""
    truncation: float | None = None
    """Draw noise within ± so much (0.5 to 2): more typical images, less various ones."""
    rejection: float | None = None
    """Keep images that the discriminator accepts; nearer to 1 is pickier (0.8). In [0, 1)."""
    weights: Literal["ema", "raw"] = "ema"
    """The moving average of the generator, or the weights that were being trained."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto takes a GPU where there is one."""


def run(arguments: list[str]) -> int:
    chosen = parse(Arguments, arguments, prog="fastgan augment")
    check_int("per_class", chosen.per_class, 1, _MAX_COUNT)
    check_seed(chosen.seed)
    # The manifest is written last: its place tells whether the folder may be written at all.
    manifest = output_file(chosen.out / MANIFEST, False)
    if chosen.out.exists() and any(chosen.out.iterdir()):
        raise FileExistsError(f"{chosen.out} is not empty: --out names a new folder")
    device = take_device(chosen.device)
    generator: Any = load_generator(chosen.checkpoint, weights=chosen.weights, device=device)
    found_checkpoint = find_checkpoint(chosen.checkpoint)
    data = found_checkpoint.manifest.get("data") or {}
    classes = _classes(chosen, generator, data.get("unseen_classes", ()))
    labels = torch.tensor(classes).repeat_interleave(chosen.per_class)
    common: dict[str, Any] = {"seed": chosen.seed, "truncation": chosen.truncation}
    drawn = len(labels)
    if chosen.rejection is None:
        images = sample_images(generator, len(labels), labels=labels, **common)
    else:
        discriminator = load_discriminator(chosen.checkpoint, device=device)
        found = rejection_sample(
            generator,
            discriminator,
            len(labels),
            quantile=chosen.rejection,
            labels=labels,
            **common,
        )
        images, drawn = found
    _write(images, classes, chosen)
    facts = {
        "checkpoint": str(chosen.checkpoint),
        "step": found_checkpoint.manifest["step"],
        "data": data,
        "images": {str(label): chosen.per_class for label in classes},
        "drawn": drawn,
        **{name: getattr(chosen, name) for name in ("seed", "truncation", "rejection", "weights")},
    }
    with whole_file(manifest) as file:
        file.write(f"{json.dumps(facts, indent=1)}\n".encode())
    print(chosen.out)
    return 0


def _classes(chosen: Arguments, generator: Any, unseen: Sequence[int]) -> list[int]:
    count = getattr(generator, "num_classes", 0)
    if not count:
        raise ValueError(
            f"augment: the {type(generator).__name__} of {chosen.checkpoint} draws no classes: "
            "give it a run of cdcgan, acgan or projection"
        )
    for label in chosen.classes:
        check_int("classes", label, 0, count - 1)
    classes = sorted(set(chosen.classes)) or list(range(count))
    if without := sorted(set(classes).intersection(unseen)):
        listed = " ".join(str(label) for label in range(count) if label not in unseen)
        raise ValueError(
            f"augment: the run of {chosen.checkpoint} had no image of class "
            f"{', '.join(map(str, without))}, so that its samples are of no class: label some, or "
            f"draw the others, --classes {listed}"
        )
    return classes


def _write(images: torch.Tensor, classes: list[int], chosen: Arguments) -> None:
    width = len(str(chosen.per_class - 1))
    for label, of_class in zip(classes, images.split(chosen.per_class), strict=True):
        folder = chosen.out / str(label)
        folder.mkdir(parents=True)
        for number, image in enumerate(of_class):
            pixels = make_grid(image[None], padding=0).numpy()
            grey = image.shape[0] < 3
            picture = Image.fromarray(pixels[..., 0] if grey else pixels)
            picture.save(folder / f"{number:0{width}}.png")
