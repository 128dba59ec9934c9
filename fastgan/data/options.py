"""What a caller may ask of any source: size, channels, how to resize, how much."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from fastgan.checks import check_choice, check_int, check_share, check_size

Resize = Literal["center-crop", "squash", "pad"]
Split = Literal["train", "test"]
Loading = Literal["auto", "resident", "stream"]
Layout = Literal["auto", "NHW", "NHWC", "NCHW", "HWC", "CHW"]

# Pillow's own default of Image.MAX_IMAGE_PIXELS: a quarter of a gigabyte of RGB.
MAX_PIXELS = 1024 * 1024 * 1024 // 4 // 3

# What a compressed file may unpack to (.gz, .npz, .zip); deflate reaches 1000:1, so the size of
# the file says nothing.
MAX_UNPACKED_BYTES = 16 * 1024**3


@dataclass(frozen=True)
class LoadOptions:
    """Options of `fastgan.data.load`, checked once; see there for their meaning."""

    image_size: int | tuple[int, int] | None = None
    channels: int | None = None
    resize: Resize = "center-crop"
    background: tuple[int, int, int] = (255, 255, 255)
    strict: bool = False
    limit: int | None = None
    max_pixels: int = MAX_PIXELS
    split: Split = "train"
    layout: Layout = "auto"
    # Not part of what a set is told from others by: its files are.
    held_out: float = field(default=0, repr=False)

    def __post_init__(self) -> None:
        check_int("max_pixels", self.max_pixels, 1)
        if self.image_size is not None:
            # As many pixels as are taken from a file.
            check_size("image_size", self.image_size, 1, math.isqrt(MAX_PIXELS))
        if self.limit is not None:
            check_int("limit", self.limit, 1)
        check_share("held_out", self.held_out)
        if self.channels is not None:
            check_int("channels", self.channels, 1)
        check_choice("resize", self.resize, get_args(Resize))
        check_choice("split", self.split, get_args(Split))
        check_choice("layout", self.layout, get_args(Layout))
        if not isinstance(self.background, tuple) or len(self.background) != 3:
            raise TypeError(f"background must be a tuple (R, G, B), got {self.background!r}")
        for value in self.background:
            if check_int("background", value, 0) > 255:
                raise ValueError(f"background must lie in 0..255, got {self.background}")
