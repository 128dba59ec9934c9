"""A picture in the terminal that a run is watched in."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image as PillowImage
from rich.console import Console, RenderableType
from rich.measure import Measurement

ROWS = 14
Preview = Callable[[Path], RenderableType]


def terminal_preview(console: Console) -> Preview | None:
    """What shows a picture's file in the terminal, by Kitty's graphics protocol or by Sixel.

    None where the terminal has neither, or where textual-image (``fastgan[preview]``) is missing.
    The terminal is asked here, and its answer read from standard input, so this is called before
    anything else reads or writes there.
    """
    if not _in_foreground():
        return None
    try:
        from textual_image.renderable import Image, SixelImage, TGPImage

        if Image not in (SixelImage, TGPImage):
            return None
        # The size of a cell is asked for once, too, where the system does not know it.
        Measurement.get(console, console.options, Image(PillowImage.new("RGB", (1, 1))))
    except Exception:  # not installed, or a terminal that answers oddly: no reason to end a run
        return None
    return lambda path: Image(path, height=ROWS)


def _in_foreground() -> bool:
    """Whether the terminal can be asked: a job in the background would be stopped by it."""
    try:
        terminal = sys.__stdin__.fileno()  # type: ignore[union-attr]
        return os.isatty(terminal) and os.tcgetpgrp(terminal) == os.getpgrp()
    except (AttributeError, OSError, ValueError):  # none, closed, or Windows
        return False
