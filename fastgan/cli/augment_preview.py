"""fastgan augment-preview DATA"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from fastgan.augment import get_augmentation
from fastgan.checks import check_int
from fastgan.cli._common import check_seed, parse
from fastgan.cli._output import output_file
from fastgan.data import load
from fastgan.engine import save_grid
from fastgan.engine.grid import check_picture, check_still, screen_scale


@dataclass(frozen=True)
class Arguments:
    """What an augmentation makes of real images, before anyone trains: the images in the first row,
    and below each what the discriminator would see of it."""

    data: tyro.conf.Positional[str]
    """mnist5k, mnist, fashion-mnist, or a path: see docs/data.md."""
    augment: str = "diffaugment"
    """diffaugment, ada or instance_noise."""
    p: float | None = None
    """Of ada: the probability of each transformation, which a run adapts; 0.5 where not given."""
    rows: int = 4
    """Rows of augmented images."""
    columns: int = 8
    """Images, evenly spaced over the data."""
    image_size: int | None = None
    """Height and width; by default those of the data."""
    seed: int = 0
    """Seed of what is drawn."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("augment.png")
    """The picture to write, by its suffix a PNG, JPEG or WebP."""
    force: bool = False
    """Write over the file that stands there."""


def run(arguments: list[str]) -> int:
    chosen = parse(Arguments, arguments, prog="fastgan augment-preview")
    for name in ("rows", "columns"):
        check_int(name, getattr(chosen, name), 1)
    check_seed(chosen.seed)
    augment = get_augmentation(chosen.augment, **_strength(chosen))
    out = output_file(chosen.out, chosen.force)
    check_still(out)
    found = load(chosen.data, image_size=chosen.image_size, limit=chosen.columns)
    pixels = found.as_bytes().images
    count, (height, width) = len(pixels), pixels.shape[-2:]
    scale = screen_scale(pixels)
    check_picture(count * (1 + chosen.rows), height, width, count, scale)
    images = pixels.float() / 127.5 - 1
    torch.manual_seed(chosen.seed)
    with torch.no_grad():
        rows = [images, *(augment(images) for _ in range(chosen.rows))]
    save_grid(torch.cat(rows), out, columns=count, scale=scale)
    print(chosen.out)
    return 0


def _strength(chosen: Arguments) -> dict[str, Any]:
    if chosen.augment == "ada":
        return {"target": None, "p": 0.5 if chosen.p is None else chosen.p}
    if chosen.p is not None:
        raise ValueError(f"p is the probability of ada; {chosen.augment} has none")
    return {}
