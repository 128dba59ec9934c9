"""Batches from a data set that lives on the device as uint8: no workers, no copies, no state."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastgan.data._checks import check_int
from fastgan.data.dataset import ImageDataset


class ResidentLoader:
    """Shuffled batches as a pure function of (seed, step), so that a resume needs no state.

    Epoch e takes the images in an order drawn from (seed, e) alone, and the batches that fill up
    completely; what remains of an epoch (fewer images than `batch_size` times `world_size`) is
    left out. With several ranks, the batches of one step put side by side are the batch of a
    single process with `batch_size` times `world_size`.

    Args:
        dataset: the images; one uint8 copy is held on `device`.
        batch_size: B, images of this rank in a step.
        seed: not negative.
        device: where the batches are made.
        flip: mirror each image left-right with probability 1/2, drawn from (seed, epoch) too.
        rank: this process, 0 <= rank < world_size.
        world_size: number of processes.

    Raises:
        TypeError: a number that is not an int.
        ValueError: a zero or negative number, a rank outside, or a batch larger than the data.
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
        self.batch_size = check_int("batch_size", batch_size, 1)
        self.seed = check_int("seed", seed, 0)
        self.world_size = check_int("world_size", world_size, 1)
        self.rank = check_int("rank", rank, 0)
        if rank >= world_size:
            raise ValueError(f"rank must be less than world_size = {world_size}, got {rank}")
        total = batch_size * world_size
        if total > len(dataset):
            ranks = f" times world_size {world_size}" if world_size > 1 else ""
            raise ValueError(
                f"batch_size {batch_size}{ranks} is larger than the data: {dataset.name} has "
                f"{len(dataset)} images"
            )
        self.device = torch.device(device)
        self.flip = flip
        self.steps_per_epoch = len(dataset) // total
        # NHWC in memory, so that a gathered batch is channels-last without another pass.
        self._images = dataset.images.to(self.device).permute(0, 2, 3, 1).contiguous()
        self._labels = None if dataset.labels is None else dataset.labels.to(self.device)
        self._epoch = -1
        self._order = torch.empty(0)
        self._flips = torch.empty(0)

    def epoch(self, step: int) -> int:
        """Return the epoch, from 0, that `step` belongs to."""
        return check_int("step", step, 0) // self.steps_per_epoch

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
        epoch = self.epoch(step)
        if epoch != self._epoch:
            self._start(epoch)
        first = (step % self.steps_per_epoch * self.world_size + self.rank) * self.batch_size
        chosen = slice(first, first + self.batch_size)
        return self._order[chosen], self._flips[chosen] if self.flip else None

    def gather(self, index: Tensor, flips: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the batch of what `rows` gave: a function of tensors alone."""
        images = self._images.index_select(0, index)
        if flips is not None:
            images = torch.where(flips[:, None, None, None], images.flip(2), images)
        labels = None if self._labels is None else self._labels.index_select(0, index)
        scaled = images.to(torch.float32).div_(127.5).sub_(1.0)
        return scaled.permute(0, 3, 1, 2), labels

    def _start(self, epoch: int) -> None:
        # SeedSequence mixes the two numbers: seed 0 epoch 1 is unrelated to seed 1 epoch 0.
        mixed = np.random.SeedSequence([self.seed, epoch]).generate_state(1, np.uint64)[0]
        # Drawn on the CPU, so that the order is the same on every device.
        generator = torch.Generator().manual_seed(int(mixed >> np.uint64(1)))
        count = len(self._images)
        self._order = self._sent(torch.randperm(count, generator=generator))
        if self.flip:
            draws = torch.randint(0, 2, (count,), generator=generator, dtype=torch.bool)
            self._flips = self._sent(draws)
        self._epoch = epoch

    def _sent(self, drawn: Tensor) -> Tensor:
        if self.device.type != "cuda":
            return drawn.to(self.device)
        return drawn.pin_memory().to(self.device, non_blocking=True)
