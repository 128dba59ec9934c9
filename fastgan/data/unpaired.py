"""Two sets of images that do not belong to each other, as one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgan.data.order import mixed
from fastgan.data.source import Batches, DataError, Source, ValueRange, normalised


class Unpaired:
    """Images of two domains; a `Source` whose items are one of each, along the channels.

    Each set has an order of its own, and begins anew when it is through: their counts need not
    agree, and which images meet is left to chance. An item is float32 [2·C, H, W] in [-1, 1].

    Raises DataError for sets of images of another shape.
    """

    dtype = torch.float32
    value_range: ValueRange = (-1.0, 1.0)
    labels: Tensor | None = None

    def __init__(self, first: Source, second: Source) -> None:
        if first.shape[1:] != second.shape[1:]:
            raise DataError(
                f"two sets must have images of one shape, got {list(first.shape[1:])} of "
                f"{first.name} and {list(second.shape[1:])} of {second.name}"
            )
        self.sets = first, second
        self.name = f"{first.name} and {second.name}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the larger set; 0 where one is not known."""
        counts = [each.shape[0] for each in self.sets]
        _, channels, *rest = self.sets[0].shape
        return max(counts) if all(counts) else 0, 2 * channels, *rest

    @property
    def skipped(self) -> int:
        """Files of both that could not be read."""
        return sum(getattr(each, "skipped", 0) for each in self.sets)

    def some(self, count: int) -> Tensor:
        found = [normalised(each.some(count), each.value_range) for each in self.sets]
        return torch.cat([part[: min(map(len, found))] for part in found], 1)

    def fingerprint(self) -> str:
        both = "".join(each.fingerprint() for each in self.sets)
        return hashlib.sha256(b"fastgan.Unpaired.1" + both.encode()).hexdigest()

    def batches(self, batch_size: int, seed: int, *args: Any, **kwargs: Any) -> Batches:
        """A loader of each set with these arguments, whose batches are put together."""
        # With one seed two sets of one count would meet in the order of their names.
        seeds = seed, mixed(seed, 1)
        return _Both(
            *(
                e.batches(batch_size, s, *args, **kwargs)
                for e, s in zip(self.sets, seeds, strict=True)
            )
        )


class _Both:
    def __init__(self, first: Batches, second: Batches) -> None:
        self._loaders = first, second
        self._of_first = 0

    def rows(self, step: int) -> tuple[Tensor | None, ...]:
        first, second = (loader.rows(step) for loader in self._loaders)
        self._of_first = len(first)
        return *first, *second

    @property
    def gather(self) -> Callable[..., tuple[Tensor, Tensor | None]]:
        return self._gather

    def _gather(self, *rows: Tensor | None) -> tuple[Tensor, None]:
        parts = rows[: self._of_first], rows[self._of_first :]
        images = [
            loader.gather(*part)[0] for loader, part in zip(self._loaders, parts, strict=True)
        ]
        return torch.cat(images, 1).contiguous(memory_format=torch.channels_last), None

    def close(self) -> None:
        """End what the loaders have opened."""
        for loader in self._loaders:
            if hasattr(loader, "close"):
                loader.close()
