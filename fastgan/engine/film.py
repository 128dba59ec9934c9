"""Pictures that move."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastgan.system import whole_file

# By suffix: Pillow's name of the format; None is of imageio.
FORMATS = {".gif": "GIF", ".webp": "WEBP", ".png": "PNG", ".mp4": None}


def check_film(path: Path) -> Path:
    """``path`` if its suffix is that of a film; else ValueError. ModuleNotFoundError where the
    package that writes it is missing."""
    if _suffix(path) not in FORMATS:
        raise ValueError(f"{path}: a film is one of {', '.join(FORMATS)}")
    if FORMATS[_suffix(path)] is None:
        try:
            import av  # noqa: F401
            import imageio  # noqa: F401
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"{path}: MP4 needs imageio and PyAV: pip install 'fastgan[video]'"
            ) from error
    return path


def _suffix(path: Path) -> str:
    return path.suffix.lower() or ".gif"


def save_film(
    frames: Sequence[NDArray[np.uint8]], path: Path, seconds: float | Sequence[float]
) -> Path:
    """Writes a film as a whole or not at all: GIF, WebP, animated PNG or MP4, by the suffix.

    Args:
        frames: uint8 [H, W, 3], all of one size.
        seconds: that a frame stays, or each of them; MP4 takes the first frame's for all.

    Raises:
        ValueError: no frames, frames of different sizes or an unknown suffix.
        ModuleNotFoundError: MP4 without the packages of fastgan[video].
    """
    check_film(path)
    if not len(frames) or len({frame.shape for frame in frames}) > 1:
        raise ValueError("a film needs frames, all of one size")
    times = [seconds] * len(frames) if isinstance(seconds, (int, float)) else list(seconds)
    kind = FORMATS[_suffix(path)]
    with whole_file(path) as file:
        if kind is None:
            import imageio.v3

            even = [frame[: len(frame) // 2 * 2, : frame.shape[1] // 2 * 2] for frame in frames]
            options = {"fps": round(1 / times[0]), "codec": "libx264", "extension": ".mp4"}
            file.write(imageio.v3.imwrite("<bytes>", np.stack(even), plugin="pyav", **options))
        else:
            first, *others = (_picture(frame) for frame in frames)
            lasting = [round(1000 * time) for time in times]
            first.save(file, kind, save_all=True, append_images=others, duration=lasting, loop=0)
    return path


def _picture(frame: NDArray[np.uint8]) -> Image.Image:
    """Grey if it is: a GIF has 256 colours, which are all of the greys."""
    grey = (frame == frame[..., :1]).all()
    return Image.fromarray(frame[..., 0] if grey else frame)
