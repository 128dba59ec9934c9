"""The one type that every data source returns: items of one shape, all in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from fastgan.checks import check_int
from fastgan.data.resident import ResidentLoader
from fastgan.data.source import (
    IMAGE_DTYPES,
    DataError,
    ValueRange,
    check_items,
    extremes,
    normalised,
    resolved_range,
)

# Labels number classes from 0; what lies above is no class, and no table of that length is made.
MAX_LABEL = 2**31 - 1


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """A set of images of one size, or of other items of one shape, all in memory; a `Source`.

    Attributes:
        images: [N, C, H, W] with any number of channels, waveforms [N, C, L] or volumes
            [N, C, D, H, W]: uint8, uint16, int16, int32, int64, float16, bfloat16 or float32.
        labels: None, or the condition of each item: classes, int64 [N]; numbers or vectors, float
            [N, ...]; or images of a pair, [N, C, H, W], float as they are or uint8 and uint16.
        classes: the name of every label, or None where there are no names.
        name: where the images came from, for logs.
        skipped: how many files of the source could not be decoded and were left out.
        value_range: the two values that become -1 and 1. By default (0, 255) of uint8, (0, 65535)
            of uint16, and of floats [-1, 1] if any is negative, else [0, 1] if none is above 1,
            else [0, 255].
        notes: what a person is told as a run starts.

    Raises:
        TypeError: a tensor of another dtype.
        DataError: another shape, zero images, NaN or infinity, a range that cannot be told, or
            labels that do not fit.
        ValueError: a `value_range` that is none.
    """

    images: Tensor
    labels: Tensor | None = None
    classes: tuple[str, ...] | None = None
    name: str = "images"
    skipped: int = 0
    value_range: ValueRange = None  # type: ignore[assignment]  # resolved below
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if not isinstance(images, Tensor):
            raise TypeError(f"images must be a tensor, got {type(images).__name__}")
        check_items(images, "images")
        found = resolved_range(images, self.value_range, self.name)
        object.__setattr__(self, "value_range", found)
        if labels is not None:
            check_labels(labels, len(self), self.classes)
        elif self.classes is not None:
            raise DataError("classes were given without labels")
        check_int("skipped", self.skipped, 0)

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """N, C, H, W."""
        return tuple(self.images.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.images.dtype

    def batches(self, *args: Any, **kwargs: Any) -> ResidentLoader:
        """A `ResidentLoader` of this set and its further arguments."""
        return ResidentLoader(self, *args, **kwargs)

    def as_bytes(self) -> ImageDataset:
        """The set as uint8, which pictures and metrics are made of: itself, or images of uint16 or
        floats rounded to the nearest of 256 levels. ValueError for others.
        """
        if self.dtype == torch.uint8 and self.value_range == (0, 255):
            return self
        known = self.dtype == torch.uint16 or self.dtype.is_floating_point
        if not known or self.images.ndim != 4:
            raise ValueError(
                f"{self.name}: images [N, C, H, W] of uint8, uint16 or floats are needed, got "
                f"{self.dtype} {list(self.shape)}"
            )
        unit = normalised(self.images, self.value_range).add(1).mul(127.5)
        images = unit.round().clamp(0, 255).to(torch.uint8)
        return replace(self, images=images, value_range=(0.0, 255.0))

    def origin(self, index: int) -> str:
        """Where an image comes from, for messages."""
        return f"{self.name}: image {index}"

    def some(self, count: int) -> Tensor:
        """Return at most `count` images, evenly spaced, as they are stored: [n, C, H, W]."""
        return self.images[spread(len(self), count)]

    def fingerprint(self) -> str:
        """Return the SHA-256 of shape, images and labels, as 64 hex digits.

        Two sets have the same fingerprint exactly when a run on one may go on with the other;
        names do not count. It does not depend on device or memory layout.
        """
        digest = hashlib.sha256(b"fastgan.ImageDataset.1")
        digest.update(repr(tuple(self.images.shape)).encode())
        if self.dtype != torch.uint8 or self.value_range != (0, 255):
            digest.update(f"{self.dtype} {self.value_range}".encode())
        for part in self.images.split(4096):
            digest.update(_bytes(part))
        if self.labels is not None:
            digest.update(b"labels")
            if self.labels.dtype != torch.int64:
                digest.update(f"{self.labels.dtype} {tuple(self.labels.shape)}".encode())
            digest.update(_bytes(self.labels))
        return digest.hexdigest()

    def select(self, indices: Tensor | Sequence[int]) -> ImageDataset:
        """Return the images (and labels) at `indices`, in that order, as a new set.

        Raises:
            TypeError: indices that are not integers (a mask: pass `mask.nonzero()[:, 0]`).
            DataError: no index.
            IndexError: an index outside the set.
        """
        index = torch.as_tensor(indices, device=self.images.device)
        if index.numel() == 0:
            raise DataError("indices must name at least one image, got none")
        if index.dtype not in (torch.int64, torch.int32) or index.ndim != 1:
            raise TypeError(
                f"indices must be a sequence of int, got {index.dtype} {list(index.shape)}"
            )
        if int(index.min()) < -len(self) or int(index.max()) >= len(self):
            raise IndexError(f"indices must lie in 0..{len(self) - 1}, got one outside")
        index = index.remainder(len(self))
        labels = None if self.labels is None else self.labels[index.to(self.labels.device)]
        return replace(self, images=self.images[index], labels=labels)


def _bytes(part: Tensor) -> memoryview:
    return part.cpu().contiguous().flatten().view(torch.uint8).numpy().data


def check_labels(labels: Tensor, count: int, classes: Sequence[str] | None) -> None:
    """Raise TypeError or DataError unless `labels` are int64 [count] that number classes, or finite
    numbers, or images stored as integers: [count, ...].
    """
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a torch.int64 tensor, got {type(labels).__name__}")
    if labels.is_floating_point() or (labels.dtype in IMAGE_DTYPES and labels.dim() >= 3):
        if len(labels) != count:
            raise DataError(f"labels must be [{count}, ...], got {list(labels.shape)}")
        if labels.is_floating_point():
            extremes(labels, "labels")
        return
    if labels.dtype != torch.int64:
        raise TypeError(
            f"labels must be a torch.int64 tensor, got {labels.dtype} (conditions that are no "
            "classes: floats, or images of uint8 or uint16)"
        )
    high = check_numbers(labels, count)
    if classes is not None and high >= len(classes):
        raise DataError(f"label {high} has no name: there are {len(classes)} classes")


def check_numbers(labels: Tensor | NDArray[Any], count: int) -> int:
    """The largest of integer labels [count]; DataError unless they are that many class numbers."""
    if labels.shape != (count,):
        raise DataError(
            f"labels must have shape [{count}], one for each image, got {list(labels.shape)}"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0:
        raise DataError(f"labels must not be negative, got {low}")
    if high > MAX_LABEL:
        raise DataError(f"labels must be at most {MAX_LABEL}, got {high}")
    return high


def spread(count: int, limit: int | None) -> list[int]:
    """Return at most `limit` indices of `count` things, evenly spaced, in order.

    Even spacing, not the first `limit`: sources are often sorted by class.
    """
    if limit is None or limit >= count:
        return list(range(count))
    return [i * count // limit for i in range(limit)]
