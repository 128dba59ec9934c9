"""Batches from a data set that lives on the device as it is stored: no workers, no copies."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from fastgan.data.order import Order
from fastgan.data.source import ValueRange, are_bytes, batch_of, check_flip, conditions_of, gathered
from fastgan.ops import gather_images


class Held(Protocol):
    """What an `ImageDataset` is to its loader."""

    @property
    def images(self) -> Tensor: ...
    @property
    def labels(self) -> Tensor | None: ...
    @property
    def name(self) -> str: ...
    @property
    def value_range(self) -> ValueRange: ...


class HeldLoader:
    """Batches of what is held on the device, as a pure function of (seed, step).

    An epoch's order is drawn once, and kept there until a step of another is asked for.
    """

    def __init__(self, order: Order, device: torch.device | str) -> None:
        self.order, self.device = order, torch.device(device)
        self._epoch = -1
        self._drawn: tuple[Tensor, Tensor | None] = torch.empty(0), None

    def batch(self, step: int) -> tuple[Tensor, Tensor | None]:
        """Return the items and labels of `step`, counted from 0.

        Returns:
            float32 [B, *item] in [-1, 1] (x / 127.5 - 1 of uint8), images channels-last; and int64
            [B] or another condition, or None for an unlabelled set. Both are new tensors on
            `device`.

        Raises:
            TypeError, ValueError: `step` is not an int or negative.
        """
        return self.gather(*self.rows(step))

    def rows(self, step: int) -> tuple[Tensor, Tensor | None]:
        """Return what makes up `step`, by its place: int64 [B]; and bool [B] of what is mirrored.

        None stands for the mirroring if `flip` is off. Nothing waits for the device.
        """
        epoch, chosen = self.order.place(step)
        if epoch != self._epoch:
            order, flips = self._draw(epoch)
            self._drawn = self._sent(order), None if flips is None else self._sent(flips)
            self._epoch = epoch
        order, flips = self._drawn
        return order[chosen], None if flips is None else flips[chosen]

    def gather(self, index: Tensor, flips: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the batch of what `rows` gave: a function of tensors alone."""
        raise NotImplementedError(f"{type(self).__name__} gathers nothing")

    def _draw(self, epoch: int) -> tuple[Tensor, Tensor | None]:
        """An epoch's places, in order, and which of them are mirrored; on the CPU."""
        return self.order.draw(epoch)

    def _sent(self, drawn: Tensor) -> Tensor:
        if self.device.type != "cuda":
            return drawn.to(self.device)
        return drawn.pin_memory().to(self.device, non_blocking=True)


class ResidentLoader(HeldLoader):
    """Shuffled batches as a pure function of (seed, step); see `Order` for which and its errors.

    Args:
        dataset: the items; one copy is held on `device`, in their own dtype.
        batch_size: B, images of this rank in a step.
        seed: not negative.
        device: where the batches are made.
        flip: mirror each image left-right with probability 1/2.
        rank: this process, 0 <= rank < world_size.
        world_size: number of processes.
        balance: see `Order`.
    """

    def __init__(
        self,
        dataset: Held,
        batch_size: int,
        seed: int,
        device: torch.device | str,
        flip: bool = False,
        rank: int = 0,
        world_size: int = 1,
        balance: float = 0.0,
    ) -> None:
        count, name = len(dataset.images), dataset.name
        check_flip(flip, tuple(dataset.images.shape), name)
        order = Order(
            count, name, batch_size, seed, flip, rank, world_size,
            labels=dataset.labels, balance=balance,
        )  # fmt: skip
        super().__init__(order, device)
        self._range = dataset.value_range
        # One kernel gathers, scales and mirrors images of bytes.
        self._fused = are_bytes(dataset.images, self._range)
        images = dataset.images.to(self.device)
        # Where channels are last in memory, they are in batches, too.
        self._planar = images.dim() == 3
        self._images = images if self._planar else images.movedim(1, -1).contiguous()
        self._labels = None if dataset.labels is None else dataset.labels.to(self.device)

    def gather(self, index: Tensor, flips: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the batch of what `rows` gave: a function of tensors alone."""
        labels = None if self._labels is None else gathered(self._labels, index)
        labels = conditions_of(labels, flips)
        if self._fused:
            return gather_images(self._images.movedim(-1, 1), index, flips), labels
        images = gathered(self._images, index)
        images = images if self._planar else images.movedim(-1, 1)
        return batch_of(images, flips, self._range), labels
