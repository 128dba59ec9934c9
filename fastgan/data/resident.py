"""Batches from a data set that lives on the device as uint8: no workers, no copies, no state."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgan.data.dataset import ImageDataset
from fastgan.data.order import Order
from fastgan.ops import gather_images


class ResidentLoader:
    """Shuffled batches as a pure function of (seed, step); see `Order` for which and its errors.

    Args:
        dataset: the images; one uint8 copy is held on `device`.
        batch_size: B, images of this rank in a step.
        seed: not negative.
        device: where the batches are made.
        flip: mirror each image left-right with probability 1/2.
        rank: this process, 0 <= rank < world_size.
        world_size: number of processes.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        batch_size: int,
        seed: int,
        device: torch.device | str,
        flip: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        count, name = len(dataset), dataset.name
        self.order = Order(count, name, batch_size, seed, flip, rank, world_size)
        self.device = torch.device(device)
        self._images = dataset.images.to(self.device).contiguous(memory_format=torch.channels_last)
        self._labels = None if dataset.labels is None else dataset.labels.to(self.device)
        self._epoch = -1
        self._drawn: tuple[Tensor, Tensor | None] = torch.empty(0), None

    def batch(self, step: int) -> tuple[Tensor, Tensor | None]:
        """Return the images and labels of `step`, counted from 0.

        Returns:
            float32 [B, C, H, W], channels-last, x / 127.5 - 1 in [-1, 1]; and int64 [B], or None
            for an unlabelled set. Both are new tensors on `device`.

        Raises:
            TypeError, ValueError: `step` is not an int or negative.
        """
        return self.gather(*self.rows(step))

    def rows(self, step: int) -> tuple[Tensor, Tensor | None]:
        """Return which images make up `step`: int64 [B], and bool [B] of those that are mirrored.

        None stands for the mirroring if `flip` is off. Nothing waits for the device.
        """
        epoch, chosen = self.order.place(step)
        if epoch != self._epoch:
            order, flips = self.order.draw(epoch)
            self._drawn = self._sent(order), None if flips is None else self._sent(flips)
            self._epoch = epoch
        order, flips = self._drawn
        return order[chosen], None if flips is None else flips[chosen]

    def gather(self, index: Tensor, flips: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the batch of what `rows` gave: a function of tensors alone."""
        labels = None if self._labels is None else self._labels.index_select(0, index)
        return gather_images(self._images, index, flips), labels

    def _sent(self, drawn: Tensor) -> Tensor:
        if self.device.type != "cuda":
            return drawn.to(self.device)
        return drawn.pin_memory().to(self.device, non_blocking=True)
