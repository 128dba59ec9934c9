"""What launchers allocate, described once: who calls several makes it for all at once."""

from collections.abc import Iterable
from math import prod
from typing import NamedTuple

import torch

Tensor = torch.Tensor


class Layout(NamedTuple):
    """Of a tensor that is to be written; of another's dtype where its own is None."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype | None = None

    def made(self, like: Tensor) -> Tensor:
        return like.new_empty_strided(self.shape, self.strides, dtype=self.dtype)


# Those of a tuple may share memory.
Layouts = tuple[Layout | tuple[Layout, ...], ...]


def contiguous(*shape: int, dtype: torch.dtype | None = torch.float32) -> Layout:
    return Layout(shape, tuple(prod(shape[i + 1 :]) for i in range(len(shape))), dtype)


def channels_last(*shape: int) -> Layout:
    """Of (N, C, *spatial), in another's dtype."""
    n, channels, *size = shape
    *outer, inner = contiguous(n, *size, channels).strides
    return Layout(shape, (outer[0], inner, *outer[1:]))


def each(layouts: Layouts) -> Iterable[Layout]:
    for layout in layouts:
        if isinstance(layout, Layout):
            yield layout
        else:
            yield from layout


def made(layouts: Layouts, like: Tensor) -> tuple[Tensor, ...]:
    """On a tensor's device, each by itself."""
    return tuple([layout.made(like) for layout in each(layouts)])
