"""What torch knows as data: datasets with `[i]`, iterable ones, and a `DataLoader` of either."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from itertools import count, islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from fastgan.data.dataset import spread
from fastgan.data.items import Entries, Pair, Reader, Spec, paired, paired_batch
from fastgan.data.order import Order, mixed
from fastgan.data.source import DataError, ValueRange, batch_of, check_flip, conditions_of

# Anything with [i] and len, or that is iterated over.
TorchData = Any

# Items that are read when a source is made, to see what they are; and the seed that they have.
_LOOKED_AT = 8
_SEED = 0


def from_torch(
    data: TorchData,
    *,
    keys: Sequence[str] | None = None,
    value_range: ValueRange | None = None,
    num_classes: int = 0,
    name: str | None = None,
) -> MapSource | IterableSource:
    """A dataset or a DataLoader as a `Source`.

    Items are tensors (arrays and PIL images are made such), pairs of an item and its condition, or
    dictionaries. Of a set with `[i]` and `len`, in a DataLoader too, the batches are fastgan's (see
    `Order`), read by the DataLoader's workers and, without any, in the step's own process: torch's,
    NumPy's and Python's random numbers are seeded for each batch from (seed, step), so a resume is
    exact, random transforms included. Batches of an iterable, and of a DataLoader with a sampler of
    its own, come as it gives them, and a resumed run starts it anew: a warning says so.

    Args:
        keys: of dictionaries: the item's, and the condition's if there is one. By default the first
            of `items.IMAGE_KEYS` and of `items.LABEL_KEYS` that is there.
        value_range: the two values that become -1 and 1; see `ImageDataset`. Without it, what the
            first items tell, to which all others are then held.
        num_classes: integer conditions are held to 0..num_classes - 1; 0: to be not negative.
        name: for messages; by default the class's.

    Raises:
        TypeError: neither indexed nor iterable, or values that are no numbers.
        DataError: no items, or such as cannot be used: the message names the item.
    """
    loader = data if isinstance(data, DataLoader) else None
    inner = data if loader is None else loader.dataset
    entries = Entries(name or type(inner).__name__, None if keys is None else tuple(keys))
    given = loader is not None and (isinstance(inner, IterableDataset) or not _is_plain(loader))
    if not given and hasattr(inner, "__getitem__") and hasattr(inner, "__len__"):
        collate = loader.collate_fn if loader is not None else default_collate
        reader = Reader(inner, entries, None if collate is default_collate else collate)
        return MapSource.of(reader, loader, value_range, num_classes)
    if hasattr(data, "__iter__"):
        return IterableSource.of(data, entries, value_range, num_classes)
    raise TypeError(
        "data must be a Source, a tensor, a dataset with [i] and len, an iterable dataset or a "
        f"DataLoader, got {type(data).__name__}"
    )


def _is_plain(loader: DataLoader[Any]) -> bool:
    """Whether a DataLoader leaves the order to torch, so that ours may stand in for it."""
    if type(loader.batch_sampler) is not BatchSampler:
        return False
    sampler: Any = loader.sampler
    if type(sampler) is RandomSampler:
        return len(sampler) == len(sampler.data_source) and not sampler.replacement
    return type(sampler) is SequentialSampler


@dataclass(frozen=True, eq=False)
class TorchSource:
    """A `Source` of what torch knows as data; `seen` are its first items."""

    spec: Spec
    seen: Pair
    count: int
    loader: DataLoader[Any] | None

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.count, *self.spec.image[0]

    @property
    def dtype(self) -> torch.dtype:
        return self.spec.image[1]

    @property
    def value_range(self) -> ValueRange:
        return self.spec.value_range

    @property
    def labels(self) -> Tensor | None:
        return self.seen[1]

    @property
    def batch_size(self) -> int | None:
        """The DataLoader's."""
        return None if self.loader is None else self.loader.batch_size

    def some(self, count: int) -> Tensor:
        images = self.seen[0]
        return images[spread(len(images), count)]

    def _identity(self, *more: object) -> str:
        return sha256(
            repr(("fastgan.TorchSource.1", self.shape, self.spec, *more)).encode()
        ).hexdigest()

    def require(self, batch_size: int, flip: bool) -> None:
        """ValueError where a DataLoader's batches are of another size, or cannot be mirrored."""
        check_flip(flip, self.shape, self.name)
        if self.batch_size not in (None, batch_size):
            raise ValueError(
                f"batch_size is {batch_size} (of this process), and the DataLoader of {self.name} "
                f"makes batches of {self.batch_size}: make them equal"
            )


class _Batches:
    """What the loaders of both kinds have in common."""

    def __init__(self, source: TorchSource, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self._range = source.value_range

    def batch(self, step: int) -> tuple[Tensor, Tensor | None]:
        """Return the items and conditions of `step`; see `ResidentLoader.batch`."""
        return self.gather(*self.rows(step))  # type: ignore[arg-type]

    def rows(self, step: int) -> tuple[Tensor | None, ...]:
        raise NotImplementedError(f"{type(self).__name__} has no rows")

    def close(self) -> None:
        """End the worker processes, which hold what this one has open; `rows` starts others."""
        self._batches: Iterator[Pair] = iter(())

    def gather(
        self, images: Tensor, flips: Tensor | None, labels: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the batch of what `rows` gave: a function of tensors alone."""
        return batch_of(images, flips, self._range), conditions_of(labels, flips)

    def _sent(self, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        return tuple(None if t is None else t.to(self.device, non_blocking=True) for t in tensors)


@dataclass(frozen=True, eq=False)
class MapSource(TorchSource):
    """A set with `[i]` and `len`, whose order is ours.

    `repeats`: an item that is read again, with the same random numbers, is the same.
    """

    reader: Reader
    repeats: bool

    @classmethod
    def of(
        cls,
        reader: Reader,
        loader: DataLoader[Any] | None,
        value_range: ValueRange | None,
        num_classes: int,
    ) -> MapSource:
        name, count = reader.entries.name, len(reader.data)
        if count == 0:
            raise DataError(f"{name} is empty")
        numbers = spread(count, _LOOKED_AT)
        seen, again = (reader.__getitems__([_SEED, *numbers]) for _ in range(2))
        spec = Spec.of(name, seen, value_range, num_classes, numbers)
        repeats = all(a is b or torch.equal(a, b) for a, b in zip(seen, again, strict=True))  # type: ignore[arg-type]
        return cls(spec, seen, count, loader, replace(reader, spec=spec), repeats)

    def some(self, count: int) -> Tensor:
        return self.reader.__getitems__([_SEED, *spread(self.count, count)])[0]

    def fingerprint(self) -> str:
        """64 hex digits that change with length, shape and range, and with the first items where
        these are the same whenever they are read.
        """
        content = [t.contiguous().flatten().view(torch.uint8) for t in self.seen if t is not None]
        return self._identity(
            *(sha256(c.numpy().data).hexdigest() for c in content if self.repeats)
        )

    def batches(self, *args: Any, **kwargs: Any) -> MapBatches:
        return MapBatches(self, *args, **kwargs)


class MapBatches(_Batches):
    """Batches of a `MapSource`: those of any step can be asked for."""

    _next: int

    def __init__(
        self,
        source: MapSource,
        batch_size: int,
        seed: int,
        device: torch.device | str,
        flip: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(source, device)
        source.require(batch_size, flip)
        self.order = Order(source.count, source.name, batch_size, seed, flip, rank, world_size)
        self._draw = lru_cache(2)(self.order.draw)  # reading ahead crosses the end of an epoch
        self._source = source
        self.close()
        if not source.repeats:
            warnings.warn(
                f"{source.name}: an item that is read twice differs though torch's, NumPy's and "
                "Python's random numbers are seeded: a resumed run will see other items than an "
                "uninterrupted one",
                stacklevel=2,
            )

    def rows(self, step: int) -> tuple[Tensor | None, ...]:
        """Return the batch of `step` as it is stored: [B, *item], flips, conditions."""
        epoch, place = self.order.place(step)
        if step != self._next:
            self._batches = self._from(step)
        self._next = -1  # after an error the iterator has ended
        images, labels = next(self._batches)
        self._next = step + 1
        flips = self._draw(epoch)[1]
        return self._sent(images, None if flips is None else flips[place], labels)

    def close(self) -> None:
        super().close()
        self._next = -1

    def _from(self, step: int) -> Iterator[Pair]:
        theirs = self._source.loader
        settings: dict[str, Any] = {}
        if theirs is not None and theirs.num_workers:
            names = "num_workers", "prefetch_factor", "timeout", "worker_init_fn"
            settings = {name: getattr(theirs, name) for name in names}
            settings["multiprocessing_context"] = theirs.multiprocessing_context
        loader: DataLoader[Any] = DataLoader(
            self._source.reader,  # type: ignore[arg-type]
            batch_sampler=self._requests(step),
            collate_fn=_as_it_is,  # type: ignore[arg-type]
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # else it would draw from the run's
            **settings,
        )
        return iter(loader)

    def _requests(self, step: int) -> Iterator[list[int]]:
        for following in count(step):
            epoch, place = self.order.place(following)
            seed = mixed(self.order.seed, following, self.order.rank)
            yield [seed, *self._draw(epoch)[0][place].tolist()]


def _as_it_is(batch: Pair) -> Pair:
    return batch


@dataclass(frozen=True, eq=False)
class IterableSource(TorchSource):
    """An iterable dataset, or a DataLoader whose order is its own."""

    data: Any
    entries: Entries

    @classmethod
    def of(
        cls, data: Any, entries: Entries, value_range: ValueRange | None, num_classes: int
    ) -> IterableSource:
        loader = data if isinstance(data, DataLoader) else None
        first = next(_passed(data, entries, _LOOKED_AT), None)
        if first is None:
            raise DataError(f"{entries.name} is empty: it gave no item")
        spec = Spec.of(entries.name, first, value_range, num_classes, None)
        try:
            items = len(data) * (len(first[0]) if loader else 1)
        except TypeError:
            items = 0
        return cls(spec, first, items, loader, data, entries)

    @property
    def batch_size(self) -> int | None:
        return len(self.seen[0]) if self.loader is not None else None

    def fingerprint(self) -> str:
        """64 hex digits that change with name, shape and range; the content is not known."""
        return self._identity()

    def batches(self, *args: Any, **kwargs: Any) -> IterableBatches:
        return IterableBatches(self, *args, **kwargs)


class IterableBatches(_Batches):
    """Batches of an `IterableSource`, one after the other, whichever step is asked for."""

    def __init__(
        self,
        source: IterableSource,
        batch_size: int,
        seed: int,
        device: torch.device | str,
        flip: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(source, device)
        source.require(batch_size, flip)
        self._source, self._size = source, batch_size
        self._flip, self._seed, self._rank, self._ranks = flip, seed, rank, world_size
        self.close()
        what = "an iterable" if source.loader is None else "a DataLoader with its own order"
        apart = "; each process takes what its own gives" if world_size > 1 else ""
        warnings.warn(
            f"{source.name}: {what} has no place to go on from: a resumed run starts it anew, and "
            f"sees other items than an uninterrupted one{apart}",
            stacklevel=2,
        )

    def rows(self, step: int) -> tuple[Tensor | None, ...]:
        """Return the next batch as it is stored: [B, *item], flips, conditions."""
        try:
            images, labels = next(self._batches)
        except BaseException:
            self.close()
            raise
        flips = None
        if self._flip:
            generator = torch.Generator().manual_seed(mixed(self._seed, step))
            drawn = torch.randint(0, 2, (self._ranks, self._size), generator=generator)
            flips = drawn[self._rank].bool()
        return self._sent(images, flips, labels)

    def close(self) -> None:
        self._batches = self._endless()

    def _endless(self) -> Iterator[Pair]:
        source = self._source
        while True:
            none = True
            for pair in _passed(source.data, source.entries, self._size):
                source.spec.check(pair)
                if len(pair[0]) == self._size:
                    none = False
                    yield pair
            if none:
                raise DataError(f"{source.name} gives no whole batch of {self._size}")


def _passed(data: Any, entries: Entries, size: int) -> Iterator[Pair]:
    """One pass: the batches of a DataLoader, or of `size` items that are iterated over."""
    items = iter(data)
    if isinstance(data, DataLoader):
        for batch in items:
            yield paired_batch(batch, entries)
        return
    while part := list(islice(items, size)):
        yield paired(part, entries, range(len(part)))
