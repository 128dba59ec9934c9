"""What is measured, and what it costs at least."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

FORWARD, BACKWARD, BOTH, STEP = "forward", "backward", "forward + backward", "step"
CONTIGUOUS, CHANNELS_LAST = "contiguous", "channels last"
LAYOUTS = (CONTIGUOUS, CHANNELS_LAST)
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def laid(tensor: Tensor, layout: str) -> Tensor:
    """A tensor of images or volumes in a layout; others, which have but one, contiguous."""
    last = layout == CHANNELS_LAST
    format = _CHANNELS_LAST.get(tensor.dim()) if last else None
    return tensor.contiguous(memory_format=format or torch.contiguous_format)


def laid_model(model: nn.Module, layout: str) -> nn.Module:
    """The model, its parameters and buffers in a layout."""
    for t in (*model.parameters(), *model.buffers()):
        t.data = laid(t.data, layout)
    return model


@dataclass(frozen=True)
class Case:
    """One line of a table: every implementation does this work, at this precision."""

    op: str
    shape: str
    dtype: str
    layout: str
    part: str = BOTH
    device: str = "cpu"

    def __str__(self) -> str:
        return f"{self.op} {self.shape} {self.dtype} {self.layout} {self.part}"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Cost(NamedTuple):
    """What the work needs at least: bytes moved, floating-point operations (two a multiply-add)."""

    bytes: float
    operations: float = 0.0

    def floor(self, bytes_per_second: float, operations_per_second: float) -> float:
        """Seconds that nothing can beat: the slower of memory and arithmetic (the roofline;
        Williams, Waterman and Patterson 2009)."""
        return max(self.bytes / bytes_per_second, self.operations / operations_per_second)

    def __add__(self, other: object) -> Cost:
        assert isinstance(other, Cost)
        return Cost(self.bytes + other.bytes, self.operations + other.operations)


def of_norm_act(x: torch.Size, itemsize: int, part: str) -> Cost:
    """Batch statistics: x is read twice and z written; backward reads x and dz twice, writes dx.

    Where a second read is served from a cache, less is moved, and the share of the floor passes 1.
    """
    passes = {FORWARD: 3, BACKWARD: 5, BOTH: 8}[part]
    return Cost(passes * x.numel() * itemsize)


def of_convolutions(model: nn.Module, inputs: list[Tensor], part: str) -> Cost:
    """The convolutions and linear layers of a model; norms and activations ride along for nothing.

    Forward: x and the weight are read, y written. Backward reads dy and the weight and writes dx,
    where x needs a gradient (the first layer's does not); reads x and dy and writes dweight.
    """
    seen: list[tuple[nn.Module, Tensor, Tensor]] = []

    def note(module: nn.Module, given: tuple[Tensor, ...], y: Tensor) -> None:
        seen.append((module, given[0], y))

    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, kinds)]
    model(*inputs)
    for hook in hooks:
        hook.remove()
    firsts = {t.data_ptr() for t in inputs if not t.requires_grad}
    total = Cost(0.0)
    for module, x, y in seen:
        total += _of_layer(module, x, y, part, x.data_ptr() in firsts)
    return total


def _of_layer(module: nn.Module, x: Tensor, y: Tensor, part: str, first: bool) -> Cost:
    weight: Any = module.weight
    transposed = bool(getattr(module, "transposed", False))
    # Every value of the smaller side meets the weights of its output (or input) channel.
    per_value = weight.numel() / weight.shape[0]
    values = (x if transposed else y).numel()
    operations = 2.0 * values * per_value
    moved = float(
        x.numel() * x.element_size()
        + weight.numel() * weight.element_size()
        + y.numel() * y.element_size()
    )
    gradients = 1 if first else 2
    times = {FORWARD: 1, BACKWARD: gradients, BOTH: 1 + gradients}[part]
    return Cost(times * moved, times * operations)
