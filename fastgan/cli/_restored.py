"""What the commands that make an image of an image share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from torch import Tensor

from fastgan.cli._output import output_file, picture_file
from fastgan.engine import load_generator
from fastgan.engine.device import take_device
from fastgan.engine.grid import check_still
from fastgan.engine.restoring import write_image


@dataclass(frozen=True)
class Common:
    """The arguments of them all."""

    checkpoint: tyro.conf.Positional[Path]
    """A checkpoint's folder, or a run's (its newest checkpoint)."""
    image: tyro.conf.Positional[Path]
    """The image; what is transparent becomes white."""
    _: KW_ONLY
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """The picture to write, by its suffix a PNG, JPEG or WebP; by default in the folder pictures of
    the checkpoint's run."""
    force: bool = False
    """Write over the file that stands there."""
    weights: Literal["ema", "raw"] = "ema"
    """The moving average of the generator, or the weights that were being trained."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto takes a GPU where there is one."""


def made(chosen: Common, name: str, make: Callable[[Any], Tensor]) -> int:
    """Write what `make` makes with the checkpoint's generator."""
    named = picture_file(chosen.out, chosen.checkpoint, name)
    out = output_file(named, chosen.force)
    check_still(out)
    generator = load_generator(
        chosen.checkpoint, weights=chosen.weights, device=take_device(chosen.device)
    )
    write_image(make(generator), out)
    print(named)
    return 0
