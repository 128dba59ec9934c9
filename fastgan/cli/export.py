"""fastgan export CHECKPOINT"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from fastgan.cli._common import parse
from fastgan.cli._output import output_file
from fastgan.engine import load_generator
from fastgan.engine.checkpoint import find_checkpoint
from fastgan.fusion import export
from fastgan.fusion.exporting import SUFFIXES


@dataclass(frozen=True)
class Arguments:
    """Write a checkpoint's generator to a file for use without fastgan."""

    checkpoint: tyro.conf.Positional[Path]
    """A checkpoint's folder, or a run's (its newest checkpoint)."""
    format: Literal["onnx", "torch-export", "safetensors"] = "onnx"
    """onnx and torch-export: the generator, its batch norms folded into convolutions, for any batch
    size; safetensors: its weights as they are."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """The file to write; by default generator.onnx, .pt2 or .safetensors."""
    force: bool = False
    """Write over the file that stands there."""
    weights: Literal["ema", "raw"] = "ema"
    """The moving average of the generator, or the weights that were being trained."""


def run(arguments: list[str]) -> int:
    chosen = parse(Arguments, arguments, prog="fastgan export")
    named = chosen.out or Path(f"generator{SUFFIXES[chosen.format]}")
    out = output_file(named, chosen.force)
    generator = load_generator(chosen.checkpoint, weights=chosen.weights)
    described = json.dumps(find_checkpoint(chosen.checkpoint).manifest["generator"])
    noise = torch.randn(2, generator.latent_dim)  # type: ignore[call-overload]
    export(generator, (noise,), out, chosen.format, {"generator": described})
    print(named)
    return 0
