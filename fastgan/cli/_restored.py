"""What the commands that make an image of an image share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from torch import Tensor

from fastgan.cli._output import output_file, picture_file
from fastgan.engine import load_generator
from fastgan.engine.device import take_device
from fastgan.engine.restoring import write_image


@dataclass(frozen=True, kw_only=True)
class Common:
    """Flags of them all; the positional arguments of each come before them."""

    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """The PNG to write; by default in the folder pictures of the checkpoint's run."""
    force: bool = False
    """Write over the file that stands there."""
    weights: Literal["ema", "raw"] = "ema"
    """The moving average of the generator, or the weights that were being trained."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto takes a GPU where there is one."""


def made(chosen: Common, checkpoint: Path, name: str, make: Callable[[Any], Tensor]) -> int:
    """Write what `make` makes with the checkpoint's generator."""
    named = picture_file(chosen.out, checkpoint, name)
    out = output_file(named, chosen.force)
    generator = load_generator(
        checkpoint, weights=chosen.weights, device=take_device(chosen.device)
    )
    write_image(make(generator), out)
    print(named)
    return 0
