"""Sets whose items are windows of long sequences: of texts, of sound."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastgan.data.dataset import spread
from fastgan.data.order import Order
from fastgan.data.resident import HeldLoader
from fastgan.data.source import DataError, ValueRange, check_flip


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of `length` values, each from one of `starts` on; a `Source` of what `items` makes.

    Attributes:
        values: [T], all sequences one after another, as they are stored.
        starts: int64 [N]; of neighbours, windows may share values.
        items: windows [B, length] of `values` to items [B, *item], float32 in [-1, 1]: a function
            of tensors alone.
        arguments: what networks of these data are built with, such as the characters of a text.
        notes: what a person is told as a run starts.
        kept: what scores are measured with beside, such as what was held out.

    Raises:
        DataError: no window, or one that leads out of `values`.
    """

    values: Tensor
    starts: Tensor
    length: int
    items: Callable[[Tensor], Tensor]
    name: str
    arguments: dict[str, object]
    notes: tuple[str, ...] = ()
    kept: Any = None

    def __post_init__(self) -> None:
        if not len(self.starts) or int(self.starts.max()) + self.length > len(self.values):
            raise DataError(f"{self.name}: no windows of {self.length} in {len(self.values)}")

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def shape(self) -> tuple[int, ...]:
        """N and an item's shape."""
        return len(self), *self.some(1).shape[1:]

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    @property
    def value_range(self) -> ValueRange:
        return -1.0, 1.0

    @property
    def labels(self) -> None:
        return None

    def at(self, starts: Tensor) -> Tensor:
        """The windows from `starts` [B] on, as they are stored: [B, length]."""
        return self.values[starts[:, None] + torch.arange(self.length, device=starts.device)]

    def some(self, count: int) -> Tensor:
        """At most `count` items, evenly spaced: [n, *item]."""
        return self.items(self.at(self.starts[spread(len(self), count)]))

    def fingerprint(self) -> str:
        """SHA-256 of values, starts, length, and what networks are built with."""
        digest = hashlib.sha256(f"fastgan.Windows.1 {self.length} {self.arguments}".encode())
        for part in (self.values, self.starts):
            digest.update(part.contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def batches(
        self,
        batch_size: int,
        seed: int,
        device: torch.device | str,
        flip: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> WindowLoader:
        check_flip(flip, self.shape, self.name)
        order = Order(len(self), self.name, batch_size, seed, False, rank, world_size)
        return WindowLoader(self, order, torch.device(device))


class WindowLoader(HeldLoader):
    """Shuffled windows as a pure function of (seed, step); their places are where they start."""

    def __init__(self, windows: Windows, order: Order, device: torch.device) -> None:
        super().__init__(order, device)
        self._values, self._starts = windows.values.to(device), windows.starts
        self._offsets = torch.arange(windows.length, device=device)
        self._items = windows.items

    def gather(self, index: Tensor, flips: Tensor | None) -> tuple[Tensor, None]:
        """Return the batch of what `rows` gave: a function of tensors alone."""
        return self._items(self._values[index[:, None] + self._offsets]), None

    def _draw(self, epoch: int) -> tuple[Tensor, None]:
        return self._starts[self.order.draw(epoch)[0]], None
