"""Colour of 16 bits a channel, which Pillow reads as 8: read by OpenCV, where that is installed."""

from __future__ import annotations

import warnings
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def is_deep_colour(image: Image.Image) -> bool:
    """Whether an opened PNG or TIFF has 16 bits a channel of which Pillow is going to give 8."""
    tiles = getattr(image, "tile", None)
    if image.mode.startswith("I") or not tiles:
        return False
    arguments = tiles[0][3]  # the raw mode, alone or first, such as "RGB;16B"
    raw = arguments if isinstance(arguments, str) else (arguments or ("",))[0]
    return ";16" in str(raw)


def read_deep(stream: BinaryIO, mode: str) -> NDArray[Any] | None:
    """uint16 [H, W, 3 or 4], RGB and opacity, of the file that `stream` is; None, with a warning,
    without OpenCV or where it does not give 16 bits. `stream` stands where it stood.

    mode: Pillow's, which tells whether there is opacity.
    """
    try:
        import cv2
    except ImportError:
        # The same words for each file, so that they come once.
        warnings.warn(
            "16-bit colour is read as 8 bits: pip install 'fastgan[depth]' keeps them", stacklevel=2
        )
        return None
    before = stream.tell()
    stream.seek(0)
    content = np.frombuffer(stream.read(), np.uint8)
    stream.seek(before)
    pixels = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        warnings.warn("16-bit colour that OpenCV does not read is read as 8 bits", stacklevel=2)
        return None
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, -1)
    order = [2, 1, 0, 3] if pixels.shape[-1] == 4 and mode.endswith("A") else [2, 1, 0]
    return pixels[..., order]
