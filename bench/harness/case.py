"""What is measured: a line of a table."""

from __future__ import annotations

from typing import NamedTuple

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


class Case(NamedTuple):
    """One line of a table: every implementation does this work, at this precision."""

    op: str
    shape: str
    dtype: str
    layout: str
    part: str = BOTH
    device: str = "cpu"

    def __str__(self) -> str:
        return f"{self.op} {self.shape} {self.dtype} {self.layout} {self.part}"
