"""Sets of images that stay on disk: what a loader reads one at a time."""

from __future__ import annotations

import hashlib
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgan.checks import sides
from fastgan.data.array import as_held, held_as, to_nchw
from fastgan.data.dataset import check_labels, spread
from fastgan.data.files import reading
from fastgan.data.image import UndecodableImage, conform, set_channels, set_depth
from fastgan.data.listing import Listing
from fastgan.data.npy import map_npy
from fastgan.data.options import LoadOptions
from fastgan.data.source import DataError, ValueRange, whole_range
from fastgan.data.stream_loader import StreamLoader

# Damaged files that are told of by name.
_NAMED = 3
_NOTING = threading.Lock()


@dataclass(frozen=True, eq=False)
class ImageStream:
    """A set of images of one size that are decoded as their turn comes; a `Source`.

    It can be pickled, and so handed to worker processes, if its `read` can; that of `stream` can.

    Attributes:
        read: index to [C, H, W] of `dtype`; called from several threads at once.
        shape: N, C, H, W.
        labels: int64 [N], or None for an unlabelled set.
        classes: the name of every label, or None where there are no names.
        name: where the images come from, for logs.
        identity: what `fingerprint` returns.
        shards: how many images lie in each file, if they lie many to a file.
        workers: threads that read; 0 is one a CPU core, at most 16, shared by the processes.
        dtype, value_range: of the images, and the two values that become -1 and 1.

    Raises:
        TypeError, DataError: labels that do not fit.
    """

    read: Callable[[int], Tensor]
    shape: tuple[int, ...]
    labels: Tensor | None
    classes: tuple[str, ...] | None
    name: str
    identity: str
    shards: tuple[int, ...] | None = None
    workers: int = 0
    damaged: set[str] = field(default_factory=set)
    """Names of the files that could not be decoded, in whose place the next one was taken, and of
    those that were left out from the start: links to nothing, pipes, devices."""
    dtype: torch.dtype = torch.uint8
    value_range: ValueRange = (0.0, 255.0)
    notes: tuple[str, ...] = ()
    """What a person is told as a run starts."""

    def __post_init__(self) -> None:
        if self.labels is not None:
            check_labels(self.labels, len(self), self.classes)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def skipped(self) -> int:
        """How many files could not be decoded so far."""
        return len(self.damaged)

    def batches(self, *args: Any, **kwargs: Any) -> StreamLoader:
        """A `StreamLoader` of this set and its further arguments."""
        return StreamLoader(self, *args, **kwargs)

    def take(self, index: int) -> tuple[Tensor, int]:
        """Read an image, and tell which it is: another than `index` where that one is damaged.

        The label that belongs to it is `labels[which]`.
        """
        if isinstance(self.read, _Files):
            return self.read.take(index)
        return self.read(index), index

    def origin(self, index: int) -> str:
        """Where an image comes from, for messages: its file, where it has one of its own."""
        if isinstance(self.read, _Files):
            return f"{self.name}: {self.read.files[index].name}"
        return f"{self.name}: image {index}"

    def some(self, count: int) -> Tensor:
        """Read at most `count` images, evenly spaced, as they are stored: [n, C, H, W]."""
        return torch.stack([self.read(i) for i in spread(len(self), count)])

    def fingerprint(self) -> str:
        """Return 64 hex digits that change with names, sizes, options and labels.

        The content is not read: a file that was replaced by one of the same name and size (in a
        zip, the same CRC) goes unnoticed.
        """
        return self.identity


class _Files:
    """Reads the images of a listing, the next one in place of a damaged one."""

    def __init__(self, listing: Listing, options: LoadOptions) -> None:
        self.name, self.files, self.options = listing.name, listing.files, options
        self.damaged = set(listing.left_out)
        self._known: set[int] = set()
        self._first = ""
        self.notes: tuple[str, ...] = ()
        size, channels = options.image_size, options.channels
        try:
            first, index = self._decode(0)
            self.shape, self.dtype = tuple(first.shape), first.dtype
            if len(first) == 1 and len(self.files[index].decoded(options)) == 3:
                example = self.files[index].name
                self.notes = (f"{self.name}: images in colour, such as {example}, become grey",)
        except DataError:
            if size is None or channels is None:
                raise
            self.shape, self.dtype = (channels, *sides(size)), torch.uint8  # the first batch tells

    def __call__(self, index: int) -> Tensor:
        return self.take(index)[0]

    def take(self, index: int) -> tuple[Tensor, int]:
        image, index = self._decode(index)
        image = set_depth(image, self.dtype)
        if image.shape[0] == 1:
            image = set_channels(image[None], self.shape[0])[0]
        if image.shape != self.shape:
            raise DataError(
                f"{self.name}: {self.files[index].name} is {_size(image.shape)} where the first "
                f"image is {_size(self.shape)}; pass image_size and channels to make them alike"
            )
        return image, index

    def _decode(self, index: int) -> tuple[Tensor, int]:
        """The first image from `index` on that is not damaged, and its own index.

        Which one that is follows from the files alone, so every rank and a resumed run take it too.
        """
        count = len(self.files)
        for other in chain(range(index % count, count), range(index % count)):
            if other in self._known:
                continue
            try:
                return self.files[other].read(self.options), other
            except UndecodableImage as error:
                if self.options.strict:
                    raise UndecodableImage(f"{self.name}: {error}") from error
                self._note(other, error)
        raise DataError(f"{self.name}: none of {count} images could be decoded: {self._first}")

    def _note(self, index: int, error: UndecodableImage) -> None:
        """Tell of the first damaged files by name, and of more when there are 10, 100, ..."""
        with _NOTING:
            if index in self._known:
                return
            self._known.add(index)
            self.damaged.add(self.files[index].name)
            count = len(self._known)
        self._first = self._first or str(error)
        if count <= _NAMED:
            warnings.warn(f"{self.name}: {error}: skipped", stacklevel=2)
        elif str(count).strip("0") == "1":
            warnings.warn(
                f"{self.name}: {count} of {len(self.files)} images could not be decoded so far",
                stacklevel=2,
            )


class _Mapped:
    """Reads the images of a mapped .npy file; when it is pickled, the file's name travels."""

    def __init__(self, path: Path, options: LoadOptions) -> None:
        self.path, self.options = path, options
        self._map()
        with reading(path, "no images"):
            self.held = held_as(self.view)
        self.chosen = spread(len(self.view), options.limit)

    def _map(self) -> None:
        array = map_npy(self.path)
        with reading(self.path, "no images"):
            self.view = to_nchw(array, self.options.layout, self.options.channels)
        self.shape, self.stored = array.shape, array.dtype

    def __call__(self, index: int) -> Tensor:
        image = as_held(self.view[self.chosen[index]][None], self.held)
        try:
            return conform(image, self.options, self.held.value_range)[0]
        except DataError as error:
            raise DataError(f"{self.path}: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "view"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._map()
        if (self.shape, self.stored) != (state["shape"], state["stored"]):
            raise DataError(
                f"{self.path}: has changed: an array of shape {list(self.shape)} and "
                f"{self.stored}, was {list(state['shape'])} and {state['stored']}"
            )


def stream_listing(listing: Listing, options: LoadOptions, workers: int = 0) -> ImageStream:
    """Stream the files of `listing`.

    Size and channels are those of `options` or else of the first file that can be decoded, and so
    is the depth; grey images become RGB where that is needed. In place of a damaged file the next
    one that is not is taken, with a warning, or with `options.strict` it is an error.

    Raises:
        DataError: no file can be decoded; when an image is read, one of another size, or RGB where
            the first was grey.
    """
    listing = listing.limited(options.limit)
    read = _Files(listing, options)
    labels = None if listing.labels is None else torch.tensor(listing.labels, dtype=torch.int64)
    return ImageStream(
        read,
        (len(listing.files), *read.shape),
        labels,
        listing.classes,
        listing.name,
        listing.fingerprint(options),
        listing.shards,
        workers,
        read.damaged,
        read.dtype,
        whole_range(read.dtype),
        read.notes,
    )


def stream_array(path: Path, options: LoadOptions, workers: int = 0) -> ImageStream:
    """Stream a .npy file of images with any number of channels, mapped into memory.

    What is not uint8 is read once from end to end, for its range.

    Raises:
        OSError: the file cannot be read.
        DataError: damaged, pickled, a layout that cannot be told or values outside the documented
            ranges (see `held_as`).
    """
    read = _Mapped(path, options)
    digest = hashlib.sha256(b"fastgan.stream_array.1")
    kind = () if read.stored == np.uint8 else (read.stored.str, read.held.value_range)
    digest.update(repr((read.shape, options, *kind)).encode())
    for index in spread(len(read.chosen), 64):  # the rest would take as long as training
        digest.update(np.ascontiguousarray(read.view[read.chosen[index]]).data)
    first = read(0)
    return ImageStream(
        read, (len(read.chosen), *first.shape), None, None, str(path), digest.hexdigest(), None,
        workers, dtype=first.dtype, value_range=read.held.value_range,
    )  # fmt: skip


def _size(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    return f"{width}x{height} with {channels} channels"
