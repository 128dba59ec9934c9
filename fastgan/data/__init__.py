"""Data: `load` a set of images from anywhere, `stream` one that is larger than memory, or hand over
what torch knows (`from_torch`) or an object of your own (`Source`).

`ResidentLoader` and `StreamLoader` make batches of them, `make_loader` the one that fits. Downloads
are `fastgan.data.fetch.fetch`. docs/data.md has the sources and options on one page.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastgan.data.dataset import ImageDataset
from fastgan.data.levels import open_levels
from fastgan.data.loading import load, open_images, stream
from fastgan.data.resident import ResidentLoader
from fastgan.data.source import Batches, DataError, Source, normalised
from fastgan.data.stream_loader import StreamLoader
from fastgan.data.streaming import ImageStream
from fastgan.data.torch_data import TorchData, from_torch
from fastgan.data.unpaired import Unpaired
from fastgan.data.volumes import open_volumes

__all__ = [
    "Batches",
    "DataError",
    "ImageDataset",
    "ImageStream",
    "ResidentLoader",
    "Source",
    "StreamLoader",
    "Unpaired",
    "as_source",
    "from_torch",
    "load",
    "make_loader",
    "normalised",
    "open_images",
    "open_levels",
    "open_volumes",
    "stream",
]

Data = Source | TorchData | Tensor


def as_source(data: Data, num_classes: int = 0) -> Source:
    """`data` as a `Source`: itself if it is one, a tensor as an `ImageDataset`, else `from_torch`.

    Args:
        num_classes: labels that are read as the run goes on are held to 0..num_classes - 1.
    """
    if isinstance(data, Source):
        return data
    if isinstance(data, Tensor):
        return ImageDataset(data, name="tensor")
    return from_torch(data, num_classes=num_classes)


def make_loader(data: Data, *args: Any, **kwargs: Any) -> Batches:
    """The loader for `data`, made with the arguments that all loaders take."""
    return as_source(data).batches(*args, **kwargs)
