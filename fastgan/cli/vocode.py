"""fastgan vocode CHECKPOINT CLIP"""

from __future__ import annotations

import sys
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fastgan.cli._common import parse
from fastgan.cli._output import output_file, picture_file
from fastgan.data.audio import save_sound
from fastgan.engine import load_generator
from fastgan.engine.device import take_device
from fastgan.engine.vocoding import (
    check_vocoder,
    read_clip,
    read_spectrogram,
    spectrogram_of,
    vocode,
)


@dataclass(frozen=True)
class Arguments:
    """A sound of any length by its log-mel spectrogram, with the generator of a vocoder run."""

    checkpoint: tyro.conf.Positional[Path]
    """A checkpoint's folder, or a run's (its newest checkpoint)."""
    clip: tyro.conf.Positional[Path]
    """A sound file of any rate and channels, or a log-mel spectrogram, a .npy of [mels, T]."""
    _: KW_ONLY
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """The WAV to write, of the generator's rate; by default in the folder pictures of the
    checkpoint's run."""
    force: bool = False
    """Write over the file that stands there."""
    weights: Literal["ema", "raw"] = "ema"
    """The moving average of the generator, or the weights that were being trained."""
    frames: int = 4096
    """Frames of the spectrogram that are worked on at once: fewer need less memory."""
    device: str = "auto"
    """cpu, cuda, cuda:1 ...; auto takes a GPU where there is one."""


def run(arguments: list[str]) -> int:
    chosen = parse(Arguments, arguments, prog="fastgan vocode")
    named = picture_file(chosen.out, chosen.checkpoint, "vocoded.wav")
    out = output_file(named, chosen.force)
    generator: Any = check_vocoder(
        load_generator(chosen.checkpoint, weights=chosen.weights, device=take_device(chosen.device))
    )
    length = None
    if chosen.clip.suffix.lower() == ".npy":
        spectrogram = read_spectrogram(chosen.clip, generator)
    else:
        sound, did = read_clip(chosen.clip, generator)
        spectrogram, length = spectrogram_of(sound, generator), len(sound)
        if did:
            print(f"{chosen.clip}: {', '.join(did)}", file=sys.stderr)
    made = vocode(generator, spectrogram, chosen.frames)
    save_sound(made[0, 0, :length], generator.rate, out)
    print(named)
    return 0
