"""What work costs at least: operations, bytes, and the time that a machine needs for those."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

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


def of_convolutions(model: nn.Module, inputs: list[Tensor], part: str) -> Cost:
    """The convolutions and linear layers of a model; norms and activations ride along for nothing,
    and the first layer's x needs no gradient."""
    seen: list[tuple[nn.Module, Tensor, Tensor]] = []

    def note(module: nn.Module, given: tuple[Tensor, ...], y: Tensor) -> None:
        seen.append((module, given[0], y))

    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, kinds)]
    model(*inputs)
    for hook in hooks:
        hook.remove()
    firsts = {t.data_ptr() for t in inputs if not t.requires_grad}
    layers = (_of_layer(*layer, part, layer[1].data_ptr() in firsts) for layer in seen)
    return sum(layers, start=NOTHING)


def _of_layer(module: nn.Module, x: Tensor, y: Tensor, part: str, first: bool) -> Cost:
    weight: Any = module.weight
    # Every value of the smaller side meets the weights of its output (or input) channel.
    values = x if getattr(module, "transposed", False) else y
    operations = 2 * values.numel() * (weight.numel() // weight.shape[0])
    passes = of_passes(operations, x.nbytes, y.nbytes, weight.nbytes)
    if first:
        del passes[1]
    return sum({FORWARD: passes[:1], BACKWARD: passes[1:], BOTH: passes}[part], start=NOTHING)


def of_passes(operations: int, x: int, y: int, weight: int) -> list[Cost]:
    """A convolution's forward, data gradient and weight gradient, of tensors of so many bytes: two
    are read once, and the third, or its gradient, is written."""
    return [
        Cost(operations, x + weight, y),
        Cost(operations, y + weight, x),
        Cost(operations, x + y, weight),
    ]
