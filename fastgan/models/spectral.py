"""Spectral normalisation of whole networks."""

from __future__ import annotations

from typing import TypeVar

from torch import nn
from torch.nn.utils import parametrizations, parametrize

from .init import LINEAR

_Module = TypeVar("_Module", bound=nn.Module)


def spectral_norm(module: _Module, n_power_iterations: int = 1, eps: float = 1e-12) -> _Module:
    """Divide the weight of every convolution and linear layer in `module` by its largest singular
    value, in place; returns `module`.

    Each is `torch.nn.utils.parametrizations.spectral_norm`: the value is estimated by
    `n_power_iterations` steps at every forward pass in training mode, and kept in evaluation mode.
    In the state_dict a layer's `weight` gives way to `parametrizations.weight.original` and to the
    estimate's vectors, `parametrizations.weight.0._u` and `.0._v`; so apply it before loading a
    checkpoint that was written with it, and before making the optimizer. A transposed convolution's
    matrix has its output channels as rows, as torch has it. Copies (`copy.deepcopy`), memory
    formats and devices work as ever. `torch.nn.utils.parametrize.remove_parametrizations(layer,
    "weight")` leaves the plain, divided weight. Autocast on CUDA estimates in the lower precision,
    but for the engine's steps, which on GPUs estimate all norms of a network together, in float32.

    Raises ValueError if there is no such layer, or if one has a parametrized weight already.
    Source: Miyato et al. 2018, "Spectral Normalization for Generative Adversarial Networks".
    """
    layers = {name: m for name, m in module.named_modules() if isinstance(m, LINEAR)}
    if not layers:
        raise ValueError(f"module has no convolution or linear layer: {type(module).__name__}")
    for name, layer in layers.items():
        if parametrize.is_parametrized(layer, "weight"):
            raise ValueError(f"{name or 'module'}.weight has a parametrization already")
    for layer in layers.values():
        parametrizations.spectral_norm(layer, "weight", n_power_iterations, eps)
    return module
