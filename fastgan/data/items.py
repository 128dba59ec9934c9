"""Items of other people's datasets: their parts, what they must be, how they make a batch."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastgan.data.source import (
    DataError,
    ValueRange,
    check_items,
    extremes,
    resolved_range,
    within,
)

IMAGE_KEYS = ("image", "images", "img", "pixel_values", "x", "data", "input", "audio", "volume")
LABEL_KEYS = ("label", "labels", "condition", "target", "y", "class")

Pair = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class Entries:
    """Which parts of an item, or of a batch of them, are the image and its condition.

    `keys` are those of a dictionary, by default the first of IMAGE_KEYS and of LABEL_KEYS.
    """

    name: str
    keys: tuple[str, ...] | None = None

    def __call__(self, item: Any) -> tuple[Any, Any]:
        if isinstance(item, Mapping):
            return self._of_mapping(item)
        if not isinstance(item, (list, tuple)):
            return item, None
        if len(item) not in (1, 2):
            raise DataError(
                f"{self.name}: an item has {len(item)} parts: expected a tensor, a pair of an item "
                "and its condition, or a dictionary"
            )
        return (item[0], item[1]) if len(item) == 2 else (item[0], None)

    def _of_mapping(self, item: Mapping[str, Any]) -> tuple[Any, Any]:
        keys = self.keys or _known_keys(item)
        missing = [key for key in keys if key not in item]
        if missing or not 1 <= len(keys) <= 2:
            raise DataError(
                f"{self.name}: items have the keys {', '.join(map(repr, item))}"
                f"{f', not {missing[0]!r}' if missing else ''}: from_torch(data, keys=(...)) takes "
                "the item's and, if there is one, the condition's"
            )
        return item[keys[0]], item[keys[1]] if len(keys) == 2 else None


def _known_keys(item: Mapping[str, Any]) -> tuple[str, ...]:
    image = [key for key in IMAGE_KEYS if key in item][:1] or (list(item) if len(item) == 1 else [])
    return (
        *image,
        *[key for key in LABEL_KEYS if key in item and key not in image][:1] * bool(image),
    )


def as_tensor(value: Any, what: str) -> Tensor:
    """A tensor of a tensor, an array, a PIL image (channels first) or a number."""
    if isinstance(value, Image.Image):
        array = np.array(value)
        value = array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
    if isinstance(value, (bool, int, float, np.ndarray, np.generic)):
        value = torch.as_tensor(np.ascontiguousarray(value) if np.ndim(value) else value)
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{what} is of type {type(value).__name__}: expected a tensor, an array, a PIL image "
            "or a number"
        )
    return value.float() if value.dtype == torch.float64 else value


def stacked(values: Sequence[Any], numbers: Sequence[int], what: str) -> Tensor:
    """[n, ...] of values of one shape and dtype; DataError names the first that differs."""
    tensors = [as_tensor(v, f"{what} {i}") for v, i in zip(values, numbers, strict=True)]
    first = tensors[0]
    for tensor, i in zip(tensors, numbers, strict=True):
        if tensor.shape != first.shape or tensor.dtype != first.dtype:
            raise DataError(f"{what} {i} is {_kind(tensor)} where {numbers[0]} is {_kind(first)}")
    return torch.stack(tensors)


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"


def paired(items: Sequence[Any], entries: Entries, numbers: Sequence[int]) -> Pair:
    """Items as a batch."""
    pairs = [entries(item) for item in items]
    images = stacked([image for image, _ in pairs], numbers, f"{entries.name}: item")
    if pairs[0][1] is None:
        return images, None
    labels = [label for _, label in pairs]
    return images, as_labels(stacked(labels, numbers, f"{entries.name}: the condition of item"))


def paired_batch(batch: Any, entries: Entries) -> Pair:
    """A batch that was made already."""
    image, label = entries(batch)
    images = as_tensor(image, f"{entries.name}: a batch")
    if label is None:
        return images, None
    return images, as_labels(as_tensor(label, f"{entries.name}: a batch's conditions"))


def as_labels(labels: Tensor) -> Tensor:
    """A number an item is a class, whatever its type of integer."""
    whole = not labels.is_floating_point()
    return labels.long() if whole and labels.dim() < 3 else labels


@dataclass(frozen=True)
class Spec:
    """What all items are: what the first ones were.

    Attributes:
        image: shape and dtype of an item; label: of its condition, or None.
        told: the range was given, or is the dtype's: values are not held to it.
    """

    name: str
    image: tuple[tuple[int, ...], torch.dtype]
    label: tuple[tuple[int, ...], torch.dtype] | None
    value_range: ValueRange
    told: bool
    num_classes: int

    @classmethod
    def of(
        cls,
        name: str,
        pair: Pair,
        value_range: ValueRange | None,
        num_classes: int,
        numbers: Sequence[int] | None,
    ) -> Spec:
        images, labels = pair
        check_items(images, name)
        told = value_range is not None or not images.is_floating_point()
        if images.is_floating_point():
            extremes(images, name, numbers)
        found = resolved_range(images, value_range, name, whole=False)
        if not told and found[1] == 255:
            warnings.warn(
                f"{name}: the first items are floats from 0 to {float(images.max()):g}: 0 to 255 "
                "becomes -1 to 1 (value_range says otherwise)",
                stacklevel=2,
            )
        label = None if labels is None else (tuple(labels.shape[1:]), labels.dtype)
        image = tuple(images.shape[1:]), images.dtype
        spec = cls(name, image, label, found, told, num_classes)
        spec.check(pair, numbers)
        return spec

    def check(self, pair: Pair, numbers: Sequence[int] | None = None) -> None:
        """DataError unless a batch is of these items; the message names the item."""
        images, labels = pair
        if (tuple(images.shape[1:]), images.dtype) != self.image:
            raise DataError(
                f"{self.name}: {_number(0, numbers)} is {_kind(images[0])} where the first one was "
                f"{self.image[1]} {list(self.image[0])}"
            )
        if images.is_floating_point():
            values = extremes(images, self.name, numbers)
            if not self.told and not within(values, self.value_range):
                bounds = images.flatten(1)
                low, high = self.value_range
                far = torch.maximum(low - bounds.amin(1), bounds.amax(1) - high)
                raise DataError(
                    f"{self.name}: {_number(int(far.argmax()), numbers)} has values from "
                    f"{values[0]:g} to {values[1]:g}, the first ones lay in [{low:g}, {high:g}]: "
                    "pass from_torch(data, value_range=(low, high))"
                )
        self._check_labels(labels, len(images), numbers)

    def _check_labels(
        self, labels: Tensor | None, count: int, numbers: Sequence[int] | None
    ) -> None:
        found = None if labels is None else (tuple(labels.shape[1:]), labels.dtype)
        if found != self.label or (labels is not None and len(labels) != count):
            raise DataError(
                f"{self.name}: {_number(0, numbers)} and those after it have conditions "
                f"{_told(found)}, the first ones {_told(self.label)}"
            )
        if labels is None:
            return
        if labels.is_floating_point():
            extremes(labels, f"{self.name}: the conditions", numbers)
        elif labels.dim() == 1:
            most = self.num_classes - 1 if self.num_classes else None
            bad = (labels < 0) if most is None else (labels < 0) | (labels > most)
            if bad.any():
                at = int(bad.nonzero()[0])
                raise DataError(
                    f"{self.name}: {_number(at, numbers)} has label {int(labels[at])}: labels must "
                    f"{'not be negative' if most is None else f'lie in 0..{most}'}"
                )


def _number(place: int, numbers: Sequence[int] | None) -> str:
    return f"item {place} of a batch" if numbers is None else f"item {numbers[place]}"


def _told(kind: tuple[tuple[int, ...], torch.dtype] | None) -> str:
    return "none" if kind is None else f"of {kind[1]} {list(kind[0])}"


@dataclass(frozen=True)
class Reader:
    """Reads a batch of a set with `[i]`; travels to a DataLoader's workers.

    `collate` makes a batch of items where it is not torch's own.
    """

    data: Any
    entries: Entries
    collate: Callable[[list[Any]], Any] | None = None
    spec: Spec | None = None

    def __getitems__(self, request: Sequence[int]) -> Pair:
        """The batch of a seed and the numbers of items, as a DataLoader asks for it."""
        seed, *numbers = request
        with seeded(seed):
            if hasattr(self.data, "__getitems__"):
                items = self.data.__getitems__(numbers)
            else:
                items = [self.data[i] for i in numbers]
            if self.collate is None:
                pair = paired(items, self.entries, numbers)
            else:
                pair = paired_batch(self.collate(items), self.entries)
        if len(pair[0]) != len(numbers):
            raise DataError(
                f"{self.entries.name}: collate_fn made {len(pair[0])} of {len(numbers)} items"
            )
        if self.spec is not None:
            self.spec.check(pair, numbers)
        return pair


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch's, NumPy's and Python's random numbers start from `seed`; then they go on."""
    legacy = np.random  # what transforms of others draw from
    states = torch.default_generator.get_state(), legacy.get_state(), random.getstate()
    try:
        torch.default_generator.manual_seed(seed)
        legacy.seed(seed % 2**32)
        random.seed(seed)
        yield
    finally:
        torch.default_generator.set_state(states[0])
        legacy.set_state(states[1])
        random.setstate(states[2])
