"""What the algorithms share in running a pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fastgan.ops.conv.problem import FORWARD, WEIGHT_GRADIENT, Problem
from fastgan.ops.core import dispatch
from fastgan.ops.core.activation import IDENTITY, is_identity
from fastgan.ops.core.memory_format import CHANNELS_LAST, channels_last, contiguous


class Epilogue(NamedTuple):
    """What follows the sum of a forward pass: a bias in float32 (or None) and an activation."""

    bias: Tensor | None = None
    activation: int = IDENTITY[0]
    slope: float = IDENTITY[1]

    @property
    def is_identity(self) -> bool:
        return is_identity(self.activation, self.slope)

    def __call__(self, p: Problem, y: Tensor) -> Tensor:
        """`act(y + bias)` in the memory format of the pass."""
        y = laid_out(p, y)
        if self.is_identity and self.bias is None:
            return y
        kernels = dispatch.kernels("auto", "bias_act", y)
        activated: Tensor = kernels.bias_act(y, self.bias, self.activation, self.slope)
        return activated


Run = Callable[[Problem, Tensor, Tensor, Epilogue], Tensor]
ToOther = Callable[[Problem, Tensor, Tensor, Tensor | None], Tensor]
ToWeight = Callable[[Problem, Tensor, Tensor], Tensor]


def by_role(to_map: ToOther, to_image: ToOther, to_weight: ToWeight) -> Run:
    """A pass by kernels that know image and map: to_map(p, image, weight, bias), to_image(p, map,
    weight, bias), to_weight(p, image, map). bias float32 or None; a sum is rounded once, with it.
    """

    def run(p: Problem, a: Tensor, b: Tensor, epilogue: Epilogue) -> Tensor:
        transposed = p.geometry.transposed
        if p.of == WEIGHT_GRADIENT:
            return to_weight(p, b, a) if transposed else to_weight(p, a, b)
        to_other = to_map if (p.of == FORWARD) != transposed else to_image
        y = to_other(p, a, b, epilogue.bias)
        return epilogue._replace(bias=None)(p, y) if p.of == FORWARD else y

    return run


def laid_out(p: Problem, t: Tensor) -> Tensor:
    """t in the memory format of the pass."""
    return channels_last(t) if p.channels_last else contiguous(t)


def memory_format(p: Problem, dim: int) -> torch.memory_format:
    """That of the tensors of a pass, which have ``dim`` dimensions."""
    return CHANNELS_LAST[dim] if p.channels_last else torch.contiguous_format
