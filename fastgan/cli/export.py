"""fastgan export CHECKPOINT"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from fastgan.cli._common import parse
from fastgan.cli._output import output_file
from fastgan.engine import load_generator
from fastgan.engine.checkpoint import find_checkpoint
from fastgan.engine.restoring import towards
from fastgan.fusion import export
from fastgan.fusion.exporting import SUFFIXES
from fastgan.system import working


@dataclass(frozen=True)
class Arguments:
    """Write a checkpoint's generator to a file for use without fastgan."""

    checkpoint: tyro.conf.Positional[Path]
    """A checkpoint's folder, or a run's (its newest checkpoint)."""
    format: Literal["onnx", "torch-export", "safetensors"] = "onnx"
    """onnx and torch-export: the generator, its batch norms folded into convolutions, for any batch
    size (of one that takes images: of images of the size it was trained with; of one that takes
    spectrograms: of any length); safetensors: its weights as they are."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """The file to write; by default generator.onnx, .pt2 or .safetensors."""
    to: Literal["a", "b"] | None = None
    """Of a cyclegan run, which of its generators: that of images of domain a, or of b (the
    default)."""
    force: bool = False
    """Write over the file that stands there."""
    model: str | None = None
    """Of a run of your own networks: package.module:attribute that is the generator, or makes it
    without arguments."""
    weights: Literal["ema", "raw"] = "ema"
    """The moving average of the generator, or the weights that were being trained."""


def run(arguments: list[str]) -> int:
    chosen = parse(Arguments, arguments, prog="fastgan export")
    named = chosen.out or Path(f"generator{SUFFIXES[chosen.format]}")
    out = output_file(named, chosen.force)
    both = load_generator(chosen.checkpoint, weights=chosen.weights, generator=chosen.model)
    generator = towards(both, chosen.to)
    manifest = find_checkpoint(chosen.checkpoint).manifest
    described = {"generator": json.dumps(manifest.get("generator", chosen.model))}
    if generator is not both:
        described["to"] = chosen.to or "b"
    any_length = hasattr(generator, "mel")
    example = (_example(generator, manifest),)
    with working("exporting"):
        export(generator, example, out, chosen.format, described, any_length)
    print(named)
    return 0


def _example(generator: Any, manifest: Mapping[str, Any]) -> torch.Tensor:
    """Noise, or conditions of the size that the run was trained with."""
    if generator.latent_dim:
        return torch.randn(2, generator.latent_dim)
    sides = (side // generator.scale for side in manifest["data"]["images"][2:])
    return torch.rand(2, generator.condition_channels, *sides)
