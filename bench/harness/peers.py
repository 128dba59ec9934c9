"""What ours is compared with: other ways to run the same torch.nn model, at their best settings.

A peer is a function from a model of torch.nn layers, which it may keep, to what is run instead of
it. Where one cannot run, `why_not` says why, and the table shows the reason instead of a time.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bench.harness.case import Case

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


def _in_place_abn(model: nn.Module) -> nn.Module:
    """Rota Bulò, Porzi and Kontschieder 2018: saves its output alone and inverts the activation.

    It scales by |weight| + eps, so that it is given that much less to compute the same.
    """
    from inplace_abn import InPlaceABN

    norm, slope = _norm_and_slope(model)
    layer = InPlaceABN(
        norm.num_features, norm.eps, norm.momentum, activation="leaky_relu", activation_param=slope
    )
    layer.load_state_dict(norm.state_dict(), strict=False)
    with torch.no_grad():
        layer.weight.sub_(norm.eps)
    return layer


def _norm_and_slope(model: nn.Module) -> tuple[nn.BatchNorm2d, float]:
    assert isinstance(model, nn.Sequential)
    norm, act = model
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(act, nn.LeakyReLU)
    return norm, act.negative_slope


# Eager PyTorch runs its activations in place, as models are written: there it is faster.
PEERS: dict[str, Build] = {
    "eager": lambda model: model,
    "compiled": _compiled(),
    "max-autotune": _compiled(mode="max-autotune-no-cudagraphs"),
    "compiled, graphs": _compiled(mode="reduce-overhead"),
    "max-autotune, graphs": _compiled(mode="max-autotune"),
    "In-Place ABN": _in_place_abn,
}
GRAPHED = ("compiled, graphs", "max-autotune, graphs")
QUICK = ("eager", "compiled")
IN_PLACE = ("In-Place ABN",)  # these overwrite their input
_PACKAGES = {"In-Place ABN": "inplace_abn"}


def why_not(peer: str, case: Case) -> str | None:
    """Why a peer cannot run a case; None where it can."""
    if peer in GRAPHED and case.device == "cpu":
        return "CUDA graphs need a CUDA device"
    package = _PACKAGES.get(peer)
    if package is None:
        return None
    if case.op != "norm_act":
        return f"{package} has a norm with an activation, and no {case.op}"
    if importlib.util.find_spec(package) is None:
        return f"{package} is not installed: pip install 'fastgan[peers]' (builds against torch)"
    return None
