"""The one type that every data source returns: images as uint8, in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from fastgan.checks import check_int

# Labels number classes from 0; what lies above is no class, and no table of that length is made.
MAX_LABEL = 2**31 - 1


class DataError(ValueError):
    """The data is there but its content cannot be used."""


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """A set of images of one size, all in memory.

    Attributes:
        images: uint8 [N, C, H, W], 0 to 255, N, C, H, W >= 1.
        labels: int64 [N], or None for an unlabelled set.
        classes: the name of every label, or None where there are no names.
        name: where the images came from, for logs.
        skipped: how many files of the source could not be decoded and were left out.

    Raises:
        TypeError: a tensor of another dtype.
        DataError: another shape, zero images, or labels that do not fit.
    """

    images: Tensor
    labels: Tensor | None = None
    classes: tuple[str, ...] | None = None
    name: str = "images"
    skipped: int = 0

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if not isinstance(images, Tensor) or images.dtype != torch.uint8:
            got = images.dtype if isinstance(images, Tensor) else type(images).__name__
            raise TypeError(f"images must be a torch.uint8 tensor, got {got}")
        if images.ndim != 4 or images.numel() == 0:
            raise DataError(
                f"images must have shape [N, C, H, W] with no zero, got {list(images.shape)}"
            )
        if labels is not None:
            check_labels(labels, len(self), self.classes)
        elif self.classes is not None:
            raise DataError("classes were given without labels")
        check_int("skipped", self.skipped, 0)

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """N, C, H, W."""
        n, c, h, w = self.images.shape
        return n, c, h, w

    def origin(self, index: int) -> str:
        """Where an image comes from, for messages."""
        return f"{self.name}: image {index}"

    def some(self, count: int) -> Tensor:
        """Return at most `count` images, evenly spaced: uint8 [n, C, H, W]."""
        return self.images[spread(len(self), count)]

    def fingerprint(self) -> str:
        """Return the SHA-256 of shape, images and labels, as 64 hex digits.

        Two sets have the same fingerprint exactly when a run on one may go on with the other;
        names do not count. It does not depend on device or memory layout.
        """
        digest = hashlib.sha256(b"fastgan.ImageDataset.1")
        digest.update(repr(tuple(self.images.shape)).encode())
        for part in self.images.split(4096):
            digest.update(part.cpu().contiguous().numpy().data)
        if self.labels is not None:
            digest.update(b"labels")
            digest.update(self.labels.cpu().contiguous().numpy().astype("<i8").data)
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


def check_labels(labels: Tensor, count: int, classes: Sequence[str] | None) -> None:
    """Raise TypeError or DataError unless `labels` are int64 [count] that number classes."""
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels must be a torch.int64 tensor, got {got}")
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
