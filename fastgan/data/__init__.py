"""Data: `load` a set of images from anywhere, or `stream` one that is larger than memory.

`ResidentLoader` and `StreamLoader` make batches of them, `make_loader` the one that fits. Downloads
are `fastgan.data.fetch.fetch`. docs/data.md has the sources and options on one page.
"""

from __future__ import annotations

from typing import Any

from fastgan.data.dataset import DataError, ImageDataset
from fastgan.data.loading import load, open_images, stream
from fastgan.data.resident import ResidentLoader
from fastgan.data.stream_loader import StreamLoader
from fastgan.data.streaming import ImageStream

__all__ = [
    "DataError",
    "ImageDataset",
    "ImageStream",
    "ResidentLoader",
    "StreamLoader",
    "load",
    "make_loader",
    "open_images",
    "stream",
]


def make_loader(
    images: ImageDataset | ImageStream, *args: Any, **kwargs: Any
) -> ResidentLoader | StreamLoader:
    """The loader for `images`, made with the arguments that both loaders take."""
    if isinstance(images, ImageStream):
        return StreamLoader(images, *args, **kwargs)
    return ResidentLoader(images, *args, **kwargs)
