"""What the engine trains on: the protocol of a set, and how stored values become [-1, 1]."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fastgan.ops.core.memory_format import CHANNELS_LAST

ValueRange = tuple[float, float]

# Integers whose whole range is used; what others hold is the caller's to say.
_KNOWN: dict[torch.dtype, ValueRange] = {torch.uint8: (0.0, 255.0), torch.uint16: (0.0, 65535.0)}
IMAGE_DTYPES = tuple(_KNOWN)
DTYPES = (
    *IMAGE_DTYPES,
    *(torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.bfloat16, torch.float32),
)
SLACK = 1e-3
_ITEMS_AT_ONCE = 1024


class DataError(ValueError):
    """The data is there but its content cannot be used."""


class Batches(Protocol):
    """Batches of a set by the number of their step.

    Where there is a method `close()`, it is called when a run ends.
    """

    def rows(self, step: int) -> tuple[Tensor | None, ...]:
        """What `gather` makes the batch of `step` of, counted from 0: tensors on the device, of
        the same shapes at every step. Nothing may wait for the device here.

        Raises whatever reading raises; nothing of the run has been touched then.
        """
        ...

    @property
    def gather(self) -> Callable[..., tuple[Tensor, Tensor | None]]:
        """`gather(*rows)`: float32 [B, *item] in [-1, 1], and the conditions [B, ...] or None: a
        function of tensors alone, which is captured with the step.
        """
        ...


@runtime_checkable
class Source(Protocol):
    """A set that the engine trains on: `ImageDataset`, `ImageStream`, what `from_torch` returns, or
    any object with these members.

    An item ("image" in this package, whatever it is) is [C, L], [C, H, W] or [C, D, H, W]. One that
    simulates on the device:

    >>> class Simulator:
    ...     name, shape, dtype = "simulator", (0, 1, 16, 16, 16), torch.float32
    ...     value_range, labels = (-1.0, 1.0), None
    ...
    ...     def some(self, count):
    ...         return simulate(torch.arange(count))
    ...
    ...     def fingerprint(self):
    ...         return "simulator 1.0"
    ...
    ...     def batches(self, batch_size, seed, device, flip=False, rank=0, world_size=1):
    ...         return SimulatedBatches(batch_size, seed, device, rank)
    >>> class SimulatedBatches:
    ...     def rows(self, step):
    ...         return (torch.tensor([self.seed, step, self.rank], device=self.device),)
    ...
    ...     def gather(self, seeds):
    ...         return simulate(seeds), None
    """

    @property
    def name(self) -> str:
        """For messages and logs."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """How many items there are, 0 where that is not known; then an item's shape."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of the items as they are stored."""
        ...

    @property
    def value_range(self) -> ValueRange:
        """The stored values that become -1 and 1."""
        ...

    @property
    def labels(self) -> Tensor | None:
        """The items' conditions [N, ...]: int64 [N] are classes. None without. A source that reads
        them as it goes has those of a few items here.
        """
        ...

    def some(self, count: int) -> Tensor:
        """At most `count` items as they are stored, evenly spaced: [n, *item]."""
        ...

    def fingerprint(self) -> str:
        """What tells the set from others: a run goes on only with the set that it began with."""
        ...

    def batches(
        self,
        batch_size: int,
        seed: int,
        device: torch.device | str,
        flip: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> Batches:
        """The batches of one process, of `batch_size` items each."""
        ...


def normalised(items: Tensor, value_range: ValueRange) -> Tensor:
    """`items` in float32, mapped linearly so that `value_range` becomes [-1, 1]."""
    low, high = value_range
    values = items.float()
    if (low, high) == (-1.0, 1.0):
        return values
    return (values - low if low else values) / ((high - low) / 2) - 1


def are_bytes(items: Tensor, value_range: ValueRange) -> bool:
    """Whether `fastgan.ops.gather_images` makes batches of them."""
    return items.dtype == torch.uint8 and items.ndim == 4 and value_range == (0, 255)


def batch_of(items: Tensor, flips: Tensor | None, value_range: ValueRange) -> Tensor:
    """Stored items [B, *item] as the networks take them: scaled, mirrored, channels-last."""
    values = _mirrored(normalised(items, value_range), flips)
    if values.dim() not in CHANNELS_LAST:
        return values
    return values.contiguous(memory_format=CHANNELS_LAST[values.dim()])


def conditions_of(labels: Tensor | None, flips: Tensor | None) -> Tensor | None:
    """Stored conditions as the networks take them: classes and numbers as they are, images scaled
    where they are stored as integers, and mirrored as the items are.
    """
    if labels is None or labels.dim() < 3:
        return labels
    if labels.dtype in _KNOWN:
        labels = normalised(labels, _KNOWN[labels.dtype])
    return batch_of(labels, flips, (-1.0, 1.0)) if labels.is_floating_point() else labels


def _mirrored(values: Tensor, flips: Tensor | None) -> Tensor:
    if flips is None:
        return values
    return torch.where(flips.view(-1, *[1] * (values.dim() - 1)), values.flip(-1), values)


def gathered(items: Tensor, index: Tensor) -> Tensor:
    """`items[index]`, of any dtype of DTYPES."""
    if items.dtype != torch.uint16:
        return items.index_select(0, index)
    return items.view(torch.int16).index_select(0, index).view(torch.uint16)


def check_items(items: Tensor, name: str) -> None:
    """Raise unless `items` are [N, C, L], [N, C, H, W] or [N, C, D, H, W] of DTYPES, with no zero.

    Raises:
        TypeError: another dtype.
        DataError: another shape.
    """
    if items.dtype not in DTYPES:
        known = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise TypeError(f"{name} must be of {known}, got {items.dtype}")
    if items.ndim not in (3, 4, 5) or items.numel() == 0:
        raise DataError(
            f"{name} must have shape [N, C, L], [N, C, H, W] or [N, C, D, H, W] with no zero, got "
            f"{list(items.shape)}"
        )


def check_flip(flip: bool, shape: tuple[int, ...], name: str) -> None:
    """ValueError for `flip` of items that have no left and right."""
    if flip and len(shape) < 4:
        raise ValueError(f"flip mirrors images left-right, but items of {name} are {shape[1:]}")


def resolved_range(
    items: Tensor, value_range: ValueRange | None, name: str, *, whole: bool = True
) -> ValueRange:
    """`value_range` if it is given, the dtype's where it is known, else what the values tell.

    Floats lie in [-1, 1] if any is negative, in [0, 1] if none is above 1, else in [0, 255].

    Args:
        whole: `items` are all that there are.

    Raises:
        ValueError: no range, such as (1, 0).
        DataError: floats that are not finite, outside of these; integers of another range.
    """
    if value_range is not None:
        first, last = (float(bound) for bound in value_range)
        if not -float("inf") < first < last < float("inf"):
            raise ValueError(f"value_range must be finite, (low, high), got {value_range}")
        if items.is_floating_point():
            extremes(items, name)
        return first, last
    if items.dtype in _KNOWN:
        return _KNOWN[items.dtype]
    low, high = extremes(items, name)
    ranges = [(-1.0, 1.0)] if low < 0 else [(0.0, 1.0), (0.0, 255.0)]
    for known in ranges if items.is_floating_point() else []:
        if within((low, high), known):
            return known
    raise DataError(
        f"{name}: {items.dtype} from {low:g} to {high:g}{'' if whole else ' in the first items'}: "
        "pass value_range=(low, high), the values that become -1 and 1 (floats in [-1, 1], [0, 1] "
        "and [0, 255], uint8 and uint16 need none)"
    )


def whole_range(dtype: torch.dtype) -> ValueRange:
    """The range of uint8 and of uint16."""
    return _KNOWN[dtype]


def within(values: ValueRange, value_range: ValueRange) -> bool:
    """Whether the least and the largest value lie in a range, but for rounding."""
    return value_range[0] - SLACK <= values[0] and values[1] <= value_range[1] + SLACK


def extremes(items: Tensor, name: str, numbers: Sequence[int] | None = None) -> ValueRange:
    """The least and the largest value; DataError, naming the first item, if any is not finite.

    Args:
        numbers: the items' own, by default their places.
    """
    lows, highs = [], []
    for start in range(0, len(items), _ITEMS_AT_ONCE):
        part = items[start : start + _ITEMS_AT_ONCE]
        low, high = (part.int() if part.dtype == torch.uint16 else part).aminmax()
        if not (low.isfinite() and high.isfinite()):
            bad = start + int((~part.isfinite()).reshape(len(part), -1).any(1).nonzero()[0])
            bad = bad if numbers is None else numbers[bad]
            raise DataError(f"{name}: item {bad} holds NaN or infinite values")
        lows.append(float(low))
        highs.append(float(high))
    return min(lows), max(highs)
