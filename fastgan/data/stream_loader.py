"""Batches from a set that stays on disk: read ahead by threads, sent ahead of their step."""

from __future__ import annotations

import os
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor

from fastgan.checks import check_int
from fastgan.data.order import Order
from fastgan.data.source import ValueRange, are_bytes, batch_of, check_flip
from fastgan.ops import gather_images
from fastgan.system import whole_number

# By default, and at the most: a thread for each processor of the largest machines.
_MAX_WORKERS, _MAX_ASKED = 16, 1024


class Stored(Protocol):
    """What an `ImageStream` is to its loader."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def value_range(self) -> ValueRange: ...
    @property
    def labels(self) -> Tensor | None: ...
    @property
    def name(self) -> str: ...
    @property
    def shards(self) -> tuple[int, ...] | None: ...
    @property
    def workers(self) -> int: ...
    def take(self, index: int) -> tuple[Tensor, int]: ...


@dataclass(frozen=True)
class _Batch:
    """A batch in host memory, and the threads' work on it."""

    tensors: tuple[Tensor, Tensor | None, Tensor | None]
    parts: list[Future[None]]

    def done(self) -> bool:
        return all(part.done() for part in self.parts)

    def wait(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        for part in self.parts:
            part.result()
        return self.tensors


class StreamLoader:
    """What `ResidentLoader` gives, from a set larger than memory; see `Order` for which images.

    Threads decode the next `ahead` batches into host memory, pinned where the device is a GPU.
    There, a batch that is ready is copied while the step before it runs, on a stream of its own,
    so that two are on the device at a time. Nothing waits for the device.

    Which images make up a step does not depend on the threads, and no position has to be saved: a
    loader can be asked for any step, and reads ahead from there.

    Args:
        stream: the images.
        batch_size: B, images of this rank in a step.
        seed: not negative.
        device: where the batches are made.
        flip: mirror each image left-right with probability 1/2.
        rank: this process, 0 <= rank < world_size.
        world_size: number of processes.
        ahead: batches that are read before they are asked for.
        balance: see `Order`.
    """

    def __init__(
        self,
        stream: Stored,
        batch_size: int,
        seed: int,
        device: torch.device | str,
        flip: bool = False,
        rank: int = 0,
        world_size: int = 1,
        ahead: int = 4,
        balance: float = 0.0,
    ) -> None:
        count, name = stream.shape[0], stream.name
        check_flip(flip, stream.shape, name)
        self.order = Order(
            count, name, batch_size, seed, flip, rank, world_size, stream.shards,
            stream.labels, balance,
        )  # fmt: skip
        self.device = torch.device(device)
        self.ahead = check_int("ahead", ahead, 1)
        self._images = stream
        self._workers = check_int("workers", stream.workers, 0, _MAX_ASKED) or _default_workers()
        self._pool = ThreadPoolExecutor(self._workers, "fastgan-data")
        weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)
        self._draw = lru_cache(2)(self.order.draw)  # reading ahead crosses the end of an epoch
        self._read: dict[int, _Batch] = {}
        self._sent: dict[int, tuple[Tensor, Tensor | None, Tensor | None]] = {}
        self._all = torch.arange(batch_size, device=self.device)
        self._on_gpu = self.device.type == "cuda"
        if self._on_gpu:
            self._copies = torch.cuda.Stream(self.device)

    def __reduce__(self) -> tuple[Any, ...]:
        order = self.order
        ranks = order.rank, order.world_size
        made = order.batch_size, order.seed, self.device, order.flip, *ranks, self.ahead
        return type(self), (self._images, *made)

    def batch(self, step: int) -> tuple[Tensor, Tensor | None]:
        """Return the images and labels of `step`, counted from 0; see `ResidentLoader.batch`.

        Raises:
            TypeError, ValueError: `step` is not an int or negative.
            OSError, DataError: a file cannot be read, or its content used.
        """
        return self.gather(*self.rows(step))

    def rows(self, step: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the batch of `step` as it is stored: [B, C, H, W], flips, labels.

        On the device; waits until the files are read, never for the device.
        """
        self.order.place(step)
        wanted = range(step, step + self.ahead)
        for kept in (self._read, self._sent):
            for other in kept.keys() - set(wanted):
                del kept[other]
        for other in wanted:
            if other not in self._read and other not in self._sent:
                self._read[other] = self._start(other)
        if step not in self._sent:
            self._send(step)
        tensors = self._sent.pop(step)
        if self._on_gpu:
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(self._copies)
            for tensor in tensors:
                if tensor is not None:
                    tensor.record_stream(current)
            following = self._read.get(step + 1)
            if following is not None and following.done():
                self._send(step + 1)
        return tensors

    def gather(
        self, images: Tensor, flips: Tensor | None, labels: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the batch of what `rows` gave: a function of tensors alone."""
        value_range = self._images.value_range
        if are_bytes(images, value_range):
            return gather_images(images, self._all, flips), labels
        return batch_of(images, flips, value_range), labels

    def _start(self, step: int) -> _Batch:
        """Have the threads read a batch, each a part of it."""
        epoch, place = self.order.place(step)
        order, flips = self._draw(epoch)
        chosen = order[place]
        _, channels, *sides = self._images.shape
        rows = torch.empty(
            (len(chosen), *sides, channels), dtype=self._images.dtype, pin_memory=self._on_gpu
        )
        labels = (
            None if self._images.labels is None else torch.empty(len(chosen), dtype=torch.int64)
        )
        stride = -(-len(chosen) // self._workers)
        parts = [
            self._pool.submit(
                _fill,
                self._images,
                chosen[first : first + stride].tolist(),
                rows[first : first + stride],
                None if labels is None else labels[first : first + stride],
            )
            for first in range(0, len(chosen), stride)
        ]
        extra = None if flips is None else flips[place], labels
        return _Batch((rows.movedim(-1, 1), *extra), parts)

    def _send(self, step: int) -> None:
        images, flips, labels = self._read.pop(step).wait()
        if not self._on_gpu:
            self._sent[step] = images, flips, labels
            return
        with torch.cuda.stream(self._copies):
            flips, labels = (
                t if t is None else self._to_gpu(t.pin_memory()) for t in (flips, labels)
            )
            self._sent[step] = self._to_gpu(images), flips, labels

    def _to_gpu(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)


def _fill(images: Stored, index: list[int], rows: Tensor, labels: Tensor | None) -> None:
    """Read images into `rows` [n, H, W, C], and the labels of those that came into `labels` [n]."""
    taken = []
    for row, i in zip(rows, index, strict=True):
        image, which = images.take(i)
        row.copy_(image.movedim(0, -1))
        taken.append(which)
    if labels is not None:
        assert images.labels is not None
        labels.copy_(images.labels[torch.tensor(taken)])


def _default_workers() -> int:
    processes = whole_number("LOCAL_WORLD_SIZE", default=1, minimum=1)
    return max(1, min(_MAX_WORKERS, (os.cpu_count() or 1) // processes))
