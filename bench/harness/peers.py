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


def _autotuned(**options: Any) -> Build:
    """Inductor that times its choices, convolutions by Triton among them, whatever the environment
    says; a torch that does not know an option goes without."""
    asked = {
        "max_autotune": True,
        "coordinate_descent_tuning": True,
        "max_autotune_conv_backends": "ATEN,TRITON",
        "max_autotune_conv_bwd_weight_backends": "ATEN,TRITON",
        **options,
    }

    def build(model: nn.Module) -> Any:
        known = torch._inductor.list_options()
        return _compiled(options={k: v for k, v in asked.items() if k in known})(model)

    return build


# Eager PyTorch runs its activations in place, as models are written: there it is faster.
PEERS: dict[str, Build] = {
    "eager": lambda model: model,
    "compiled": _compiled(),
    "max-autotune": _autotuned(),
    "compiled, graphs": _compiled(mode="reduce-overhead"),
    "max-autotune, graphs": _autotuned(**{"triton.cudagraphs": True}),
}
# Of a forward pass alone: weights are constants, folded and packed when it is compiled.
FROZEN = _compiled(options={"freezing": True})
GRAPHED = ("compiled, graphs", "max-autotune, graphs")  # on a CUDA device only
QUICK = ("eager", "compiled")
