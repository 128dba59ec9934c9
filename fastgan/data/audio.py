"""Sound: files of any rate and number of channels as windows of one rate, mono."""

from __future__ import annotations

import math
import os
import wave
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan.checks import check_int, check_share
from fastgan.data.dataset import spread
from fastgan.data.files import expanded, reading
from fastgan.data.source import DataError
from fastgan.data.windows import Windows
from fastgan.system import whole_file

SUFFIXES = (".wav", ".flac", ".ogg")
_LARGEST = 32767  # of 16 bits, to which -1 to 1 is mapped
_ZEROS, _ROLL_OFF = 6, 0.945  # of the resampling's sinc: zero crossings a side, share of the band
_MAX_SAMPLES = 2**31


class Clips(NamedTuple):
    """What `open_audio` keeps beside: of each window the number of its clip, int64 [N]; and where
    the windows of clips that are held out start, int64 [M]."""

    numbers: Tensor
    held_out: Tensor


def _soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: its C library is missing
        raise ModuleNotFoundError(
            f"reading sound needs soundfile: pip install 'fastgan[audio]' ({error})"
        ) from error
    return soundfile


def read_sound(path: Path) -> tuple[Tensor, int, int]:
    """A file as float32 [T] in [-1, 1], the mean of its channels; its rate, and how many they were.

    Raises:
        OSError: it cannot be read.
        DataError: no sound of a kind that libsndfile knows, or an empty one.
        ModuleNotFoundError: soundfile is not installed.
    """
    soundfile = _soundfile()
    with open(path, "rb") as stream, reading(path, "no sound that can be read"):
        values, rate = soundfile.read(stream, dtype="float32", always_2d=True)
    if not len(values):
        raise DataError(f"{path}: no samples")
    sound = torch.from_numpy(values).mean(1)
    if not sound.isfinite().all():
        raise DataError(f"{path}: holds NaN or infinite values")
    return sound, int(rate), values.shape[1]


def resampled(sound: Tensor, rate: int, to: int) -> Tensor:
    """`sound` [T] of `rate` samples a second with `to` of them: [⌈T · to / rate⌉].

    By a sinc with a Hann window over six zero crossings a side, cut off at 94.5 % of the lower
    rate's band (Smith, "Digital Audio Resampling").
    """
    if rate == to:
        return sound
    common = math.gcd(rate, to)
    old, new = rate // common, to // common
    band = min(old, new) * _ROLL_OFF
    width = math.ceil(_ZEROS * old / band)
    taps = torch.arange(-width, width + old, dtype=torch.float64) / old
    phases = torch.arange(0, -new, -1, dtype=torch.float64)[:, None] / new
    time = ((phases + taps) * band).clamp(-_ZEROS, _ZEROS)
    kernels = torch.sinc(time) * (time * math.pi / 2 / _ZEROS).cos().square() * band / old
    padded = F.pad(sound[None, None], (width, width + old))
    found = F.conv1d(padded, kernels[:, None].to(sound.dtype), stride=old)
    return found[0].T.flatten()[: math.ceil(len(sound) * new / old)]


def open_audio(
    path: str | os.PathLike[str],
    rate: int,
    length: int,
    limit: int | None = None,
    held_out: float = 0,
) -> Windows:
    """Windows of `length` samples of a sound file, or of all .wav, .flac and .ogg of a folder.

    Channels are averaged, other rates resampled, what is shorter than a window is followed by
    silence, and from what is longer windows are taken every quarter of one; `notes` say how often.
    Stored in 16 bits. What is kept beside are `Clips`.

    Args:
        limit: at most so many files, evenly spaced.
        held_out: a share of these, evenly spaced, whose windows are none of the set's.

    Raises:
        ValueError, OSError: an argument or a path that is none; `read_sound`'s.
        DataError: no sound file there, or one that cannot be used.
    """
    check_int("rate", rate, 1)
    check_int("length", length, 1)
    check_share("held_out", held_out)
    found = expanded(path)
    files = [found]
    if found.is_dir():
        files = sorted(f for f in found.rglob("*") if f.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"{found}: a folder without {', '.join(SUFFIXES)} files")
    if limit is not None:
        files = [files[i] for i in spread(len(files), check_int("limit", limit, 1))]
    clips, numbers, did, at = [], [], Counter[str](), 0
    starts: list[int] = []
    held: list[int] = []
    for number, file in enumerate(files):
        sound, own, channels = read_sound(file)
        did[f"resampled from {own} Hz to {rate} Hz"] += own != rate
        did[f"mixed down from {channels} channels"] += channels > 1
        sound = resampled(sound, own, rate)
        did[f"followed by silence up to {length} samples"] += len(sound) < length
        sound = F.pad(sound, (0, max(0, length - len(sound))))
        own_starts = range(0, len(sound) - length + 1, max(1, length // 4))
        is_held = int((number + 1) * held_out) > int(number * held_out)
        (held if is_held else starts).extend(at + start for start in own_starts)
        numbers += [] if is_held else [number] * len(own_starts)
        did["held out"] += is_held
        clips.append((sound.clamp(-1, 1) * _LARGEST).round().to(torch.int16))
        at += len(sound)
        if at > _MAX_SAMPLES:
            raise DataError(f"{found}: more than {_MAX_SAMPLES} samples: choose some by limit")
    told = [f"{count} {what}" for what, count in did.items() if count]
    return Windows(
        torch.cat(clips),
        torch.tensor(starts),
        length,
        as_items,
        str(path),
        {},
        (f"{path}: of {len(files)} clips {', '.join(told)}",) if told else (),
        Clips(torch.tensor(numbers), torch.tensor(held, dtype=torch.int64)),
    )


def as_items(windows: Tensor) -> Tensor:
    """Windows of 16 bits [B, L] as float32 [B, 1, L] in [-1, 1]."""
    return windows[:, None].float() / _LARGEST


def save_sound(sound: Tensor, rate: int, path: Path) -> None:
    """Write sound [T] in [-1, 1] as a WAV file of 16 bits, as a whole or not at all."""
    values = (sound.detach().float().cpu().clamp(-1, 1) * _LARGEST).round().to(torch.int16)
    with whole_file(path) as stream, wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(values.numpy().astype("<i2").tobytes())
