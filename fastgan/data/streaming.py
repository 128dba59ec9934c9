"""Sets of images that stay on disk: what a loader reads one at a time."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastgan.data.array import to_nchw
from fastgan.data.dataset import DataError, spread
from fastgan.data.image import UndecodableImage, conform, set_channels
from fastgan.data.listing import Listing
from fastgan.data.options import LoadOptions


@dataclass(frozen=True, eq=False)
class ImageStream:
    """A set of images of one size that are decoded as their turn comes.

    Attributes:
        read: index to uint8 [C, H, W]; called from several threads at once.
        shape: N, C, H, W.
        labels: int64 [N], or None for an unlabelled set.
        classes: the name of every label, or None where there are no names.
        name: where the images come from, for logs.
        identity: what `fingerprint` returns.
        shards: how many images lie in each file, if they lie many to a file.
        workers: threads that read; 0 is one a CPU core, at most 16, shared by the processes.
    """

    read: Callable[[int], Tensor]
    shape: tuple[int, int, int, int]
    labels: Tensor | None
    classes: tuple[str, ...] | None
    name: str
    identity: str
    shards: tuple[int, ...] | None = None
    workers: int = 0
    damaged: set[str] = field(default_factory=set)
    """Names of the files that could not be decoded, and in whose place the next one was taken."""

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def skipped(self) -> int:
        """How many files could not be decoded so far."""
        return len(self.damaged)

    def some(self, count: int) -> Tensor:
        """Read at most `count` images, evenly spaced: uint8 [n, C, H, W]."""
        return torch.stack([self.read(i) for i in spread(len(self), count)])

    def fingerprint(self) -> str:
        """Return 64 hex digits that change with names, sizes, options and labels.

        The content is not read: a file that was replaced by one of the same name and size (in a
        zip, the same CRC) goes unnoticed.
        """
        return self.identity


def stream_listing(listing: Listing, options: LoadOptions, workers: int = 0) -> ImageStream:
    """Stream the files of `listing`.

    Size and channels are those of `options` or else of the first file that can be decoded; grey
    images become RGB where that is needed. In place of a damaged file the next one that is not is
    taken, with a warning, or with `options.strict` it is an error.

    Raises:
        DataError: no file can be decoded; when an image is read, one of another size, or RGB where
            the first was grey.
    """
    listing = listing.limited(options.limit)
    files = listing.files
    damaged: set[str] = set()

    def decoded(index: int) -> Tensor:
        for attempt in range(len(files)):
            file = files[(index + attempt) % len(files)]
            try:
                return file.read(options)
            except UndecodableImage as error:
                if options.strict:
                    raise
                if file.name not in damaged:
                    damaged.add(file.name)
                    warnings.warn(f"{listing.name}: {error}: skipped", stacklevel=2)
        raise DataError(f"{listing.name}: none of {len(files)} images could be decoded")

    size, channels = options.image_size, options.channels
    first = (channels or 0, size, size) if size and channels else tuple(decoded(0).shape)
    expected = torch.Size(first)

    def read(index: int) -> Tensor:
        image = decoded(index)
        if image.shape[0] == 1:
            image = set_channels(image[None], expected[0])[0]
        if image.shape != expected:
            raise DataError(
                f"{listing.name}: {files[index].name} is {_size(image.shape)} where the first "
                f"image is {_size(expected)}; pass image_size and channels to make them alike"
            )
        return image

    labels = None if listing.labels is None else torch.tensor(listing.labels, dtype=torch.int64)
    return ImageStream(
        read,
        (len(files), *expected),
        labels,
        listing.classes,
        listing.name,
        listing.fingerprint(options),
        listing.shards,
        workers,
        damaged,
    )


def stream_array(path: Path, options: LoadOptions, workers: int = 0) -> ImageStream:
    """Stream a .npy file of uint8 images with any number of channels, mapped into memory.

    Raises:
        OSError: the file cannot be read.
        DataError: damaged, pickled, of another dtype, or of a layout that cannot be told.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        view = to_nchw(array, options.layout)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    if view.dtype != np.uint8:
        raise DataError(f"{path}: images must be uint8 to be streamed, got {view.dtype}")
    chosen = spread(len(view), options.limit)

    def read(index: int) -> Tensor:
        return conform(torch.from_numpy(np.array(view[chosen[index]], order="C")[None]), options)[0]

    digest = hashlib.sha256(b"fastgan.stream_array.1")
    digest.update(repr((array.shape, options)).encode())
    for index in spread(len(chosen), 64):  # the rest would take as long as training
        digest.update(np.ascontiguousarray(view[chosen[index]]).data)
    shape = len(chosen), *read(0).shape
    return ImageStream(read, shape, None, None, str(path), digest.hexdigest(), None, workers)


def _size(shape: torch.Size) -> str:
    channels, height, width = shape
    return f"{width}x{height} with {channels} channels"
