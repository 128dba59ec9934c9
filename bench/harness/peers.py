"""What ours is compared with: other ways to run the same torch.nn model, at their best settings.

A peer is a function from a model of torch.nn layers, which it may keep, to what is run instead of
it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Build = Callable[[nn.Module], Any]


def _compiled(**options: Any) -> Build:
    """torch.compile at its best: in-place activations make Inductor's code on a CPU some ten times
    slower (torch 2.13), and it fuses them without being told."""

    def build(model: nn.Module) -> Any:
        for module in model.modules():
            if hasattr(module, "inplace"):
                module.inplace = False  # type: ignore[assignment]
        return torch.compile(model, dynamic=False, **options)

    return build


# Eager PyTorch runs its activations in place, as models are written: there it is faster.
PEERS: dict[str, Build] = {
    "eager": lambda model: model,
    "compiled": _compiled(),
    "max-autotune": _compiled(mode="max-autotune-no-cudagraphs"),
    "compiled, graphs": _compiled(mode="reduce-overhead"),
    "max-autotune, graphs": _compiled(mode="max-autotune"),
}
GRAPHED = ("compiled, graphs", "max-autotune, graphs")  # on a CUDA device only
QUICK = ("eager", "compiled")
