"""Generators of checkpoints, for commands that draw from noise."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from torch import nn

from fastgan.engine import load_generator
from fastgan.engine.device import take_device
from fastgan.engine.latents import takes_no_noise
from fastgan.engine.sampling import fitting_labels


def load_drawing(
    checkpoint: Path, weights: Literal["ema", "raw"], device: str, model: str | None = None
) -> nn.Module:
    """`load_generator`; ValueError for a generator that makes images of others alone."""
    on = take_device(device)
    generator = load_generator(checkpoint, weights=weights, generator=model, device=on)
    if getattr(generator, "latent_dim", None) is None:
        raise ValueError(
            f"model {model!r}: {checkpoint} does not say how many values of noise it takes: give "
            "the module an attribute latent_dim"
        )
    if takes_no_noise(generator):
        fitting_labels(generator, 1, None)  # which says what to do instead
    return generator
