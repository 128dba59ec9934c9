"""What cases of kernels have in common: normal values, a layout, activations by their codes."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def act(u: Tensor, code: int, slope: float) -> Tensor:
    """0: leaky ReLU; 1: tanh; 2: sigmoid."""
    if code == 1:
        return torch.tanh(u)
    return torch.sigmoid(u) if code == 2 else F.leaky_relu(u, slope)


def channels_last(x: Tensor) -> Tensor:
    """A copy with channels innermost; `torch.channels_last` is of four dimensions alone."""
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def normals(seed: int, device: str) -> Callable[..., Tensor]:
    """Of a shape, the next normal values: drawn on the CPU, so the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape, generator=generator).to(device)
