"""What several launchers of an op write, made by one call (`kernels/core/outputs.py`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fastgan.kernels.core.outputs import Layout, Layouts, made
from fastgan.ops.core import native


def maker(layouts: Layouts, dtype: torch.dtype) -> Callable[[Tensor], Sequence[Tensor]]:
    """What makes tensors of some layouts on the device of one that it is given.

    Args:
        dtype: where a layout has none: that of what is given.
    """

    def sample(layout: Layout | tuple[Layout, ...]) -> object:
        if not isinstance(layout, Layout):
            return tuple(map(sample, layout))
        shape, strides, own = layout
        return torch.empty_strided(shape, strides, dtype=own or dtype, device="meta")

    described, empties = native.WITH_AUTOGRAD.kind(0, *map(sample, layouts)), None
    if described:
        empties = native.WITH_AUTOGRAD.empties

    def make(like: Tensor) -> Sequence[Tensor]:
        found: Sequence[Tensor] | None = empties(like, described) if empties else None
        return made(layouts, like) if found is None else found

    return make
