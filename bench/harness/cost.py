"""What work costs at least: operations, bytes, and the time that a machine needs for those."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from bench.harness.case import BACKWARD, BOTH, FORWARD


class Cost(NamedTuple):
    """Floating-point operations (two a multiply-add), bytes read and bytes written."""

    operations: int
    read: int
    written: int

    @property
    def moved(self) -> int:
        """Bytes in both directions."""
        return self.read + self.written

    def bound(self, operations_per_second: float, bytes_per_second: float) -> float:
        """Seconds that no kernel can beat: the slower of arithmetic and memory (the roofline;
        Williams, Waterman and Patterson 2009)."""
        return max(self.operations / operations_per_second, self.moved / bytes_per_second)

    def __add__(self, other: object) -> Cost:
        assert isinstance(other, Cost)
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))


NOTHING = Cost(0, 0, 0)


def of_norm_act(x: torch.Size, itemsize: int, part: str) -> Cost:
    """Batch statistics: x is read twice and z written; backward reads x and dz twice, writes dx.

    Where a second read is served from a cache, less is moved, and the share of the bound passes 1.
    """
    size = x.numel() * itemsize
    read, written = {FORWARD: (2, 1), BACKWARD: (4, 1), BOTH: (6, 2)}[part]
    return Cost(0, read * size, written * size)


def of_passes(operations: int, x: int, y: int, weight: int) -> list[Cost]:
    """A convolution's forward, data gradient and weight gradient, of tensors of so many bytes: two
    are read once, and the third, or its gradient, is written."""
    return [
        Cost(operations, x + weight, y),
        Cost(operations, y + weight, x),
        Cost(operations, x + y, weight),
    ]


class Operations(TorchDispatchMode):
    """Counts the operations of what runs, by PyTorch's own formulas. (Its FlopCounterMode hooks
    into modules, and then inputs that are leaves have no gradient by torch.autograd.grad.)"""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.count += formula(*args, **(kwargs or {}), out_val=out)
        return out
