"""Which images make up which batch: a pure function of (seed, step), the same for every loader."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fastgan.checks import check_int, check_share

# Shards whose images are shuffled among each other.
SHARDS_AT_ONCE = 8


class Order:
    """Shuffled batches, so that a resume needs no state.

    Epoch e takes the images in an order drawn from (seed, e) alone, and the batches that fill up
    completely; what remains of an epoch (fewer images than `batch_size` times `world_size`) is
    left out. With several ranks, the batches of one step put side by side are the batch of a
    single process with `batch_size` times `world_size`.

    Args:
        count: images in the set.
        name: of the set, for messages.
        batch_size: images of this rank in a step.
        seed: not negative.
        flip: mirror each image left-right with probability 1/2, drawn from (seed, epoch) too.
        rank: this process, 0 <= rank < world_size.
        world_size: number of processes.
        shards: how many images lie in each file, if they lie many to a file. The shards are then
            taken in a random order, and images shuffled among `SHARDS_AT_ONCE` neighbours in it, so
            that reading stays in a few files at a time.
        labels: classes, int64 [count], for `balance`.
        balance: 0 takes the classes as often as they are there; 1 all alike, so that images of
            rare ones come again within an epoch and some of the others not; between them class c
            comes in proportion to its number of images to the power of 1 - balance.

    Raises:
        TypeError: a number that is not an int.
        ValueError: a zero or negative number, a rank outside, a batch larger than the data, or a
            balance outside of 0..1, of a set without classes, or of shards.
    """

    def __init__(
        self,
        count: int,
        name: str,
        batch_size: int,
        seed: int,
        flip: bool = False,
        rank: int = 0,
        world_size: int = 1,
        shards: Sequence[int] | None = None,
        labels: Tensor | None = None,
        balance: float = 0.0,
    ) -> None:
        self.batch_size = check_int("batch_size", batch_size, 1)
        self.seed = check_int("seed", seed, 0)
        self.world_size = check_int("world_size", world_size, 1)
        self.rank = check_int("rank", rank, 0)
        if rank >= world_size:
            raise ValueError(f"rank must be less than world_size = {world_size}, got {rank}")
        total = batch_size * world_size
        if total > count:
            ranks = f" times world_size {world_size}" if world_size > 1 else ""
            raise ValueError(
                f"batch_size {batch_size}{ranks} is larger than the data: {name} has {count} images"
            )
        self.count = count
        self.flip = flip
        self.shards = shards
        self._balance, self._labels = balance, None
        if balance:
            self._labels = _classes_to_balance(labels, shards, balance, name)
        self.steps_per_epoch = count // total

    def place(self, step: int) -> tuple[int, slice]:
        """Return the epoch, from 0, that `step` belongs to, and its part of the epoch's order.

        Raises:
            TypeError, ValueError: `step` is not an int or negative.
        """
        epoch, step = divmod(check_int("step", step, 0), self.steps_per_epoch)
        first = (step * self.world_size + self.rank) * self.batch_size
        return epoch, slice(first, first + self.batch_size)

    def draw(self, epoch: int) -> tuple[Tensor, Tensor | None]:
        """Return the epoch's order, int64 [count], and bool [count]: which are mirrored, if any.

        Drawn on the CPU, so that it is the same on every device.
        """
        generator = torch.Generator().manual_seed(mixed(self.seed, epoch))
        if self._labels is not None:
            order = _balanced(self._labels, self._balance, generator)
        elif self.shards is None:
            order = torch.randperm(self.count, generator=generator)
        else:
            order = _shuffled_shards(torch.tensor(self.shards), generator)
        if not self.flip:
            return order, None
        return order, torch.randint(0, 2, (self.count,), generator=generator, dtype=torch.bool)


def mixed(*numbers: int) -> int:
    """A seed of 63 bits: that of (0, 1) is unrelated to that of (1, 0)."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))


def _shuffled_shards(sizes: Tensor, generator: torch.Generator) -> Tensor:
    ends = sizes.cumsum(0).tolist()
    files = torch.randperm(len(ends), generator=generator).tolist()
    parts = []
    for first in range(0, len(files), SHARDS_AT_ONCE):
        near = files[first : first + SHARDS_AT_ONCE]
        images = torch.cat([torch.arange(ends[i] - int(sizes[i]), ends[i]) for i in near])
        parts.append(images[torch.randperm(len(images), generator=generator)])
    return torch.cat(parts)


def _classes_to_balance(
    labels: Tensor | None, shards: Sequence[int] | None, balance: float, name: str
) -> Tensor:
    check_share("balance", balance, "[0, 1]")
    if labels is None or labels.dtype != torch.int64 or labels.dim() != 1:
        raise ValueError(f"balance needs a class for each image, and {name} has none")
    if shards is not None:
        raise ValueError(
            f"balance cannot draw from shards, which are read one after the other: {name} must be "
            "held in memory (loading=resident)"
        )
    return labels.cpu()


def _balanced(labels: Tensor, balance: float, generator: torch.Generator) -> Tensor:
    """As many as there are labels; none of a class comes again before all of it have come."""
    counts = labels.unique(return_counts=True)[1]
    share = counts.double() ** (1 - balance)
    wanted = share / share.sum() * len(labels)
    quota = wanted.long()
    rest = len(labels) - int(quota.sum())
    quota[(wanted - quota).argsort(descending=True, stable=True)[:rest]] += 1
    drawn = []
    for own, times in zip(
        labels.argsort(stable=True).split(counts.tolist()), quota.tolist(), strict=True
    ):
        rounds = range(-(-times // len(own)))
        again = [own[torch.randperm(len(own), generator=generator)] for _ in rounds]
        drawn += [part[:left] for part, left in zip(again, range(times, 0, -len(own)), strict=True)]
    order = torch.cat(drawn)
    return order[torch.randperm(len(order), generator=generator)]
