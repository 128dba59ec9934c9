"""Initialisation of weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fastgan.nn.modes import modes_kept

LINEAR = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
SCHEMES = ("normal", "orthogonal", "xavier_uniform")
# The power iterations by which torch settles a new spectral norm.
_SETTLING = 15


def initialize(
    module: nn.Module, scheme: str = "normal", *, std: float = 0.02, gain: float = 1.0
) -> nn.Module:
    """Initialise `module` and all its children by the scheme of that name; returns `module`.

    | scheme         | convolutions and linear layers           | norms      | source              |
    |----------------|------------------------------------------|------------|---------------------|
    | normal         | N(0, std²)                               | N(1, std²) | Radford et al. 2016 |
    | orthogonal     | gain · orthonormal rows or columns       | 1          | Saxe et al. 2014    |
    | xavier_uniform | U(-a, a), a = gain √(6 / (fan in + out)) | 1          | Glorot, Bengio 2010 |

    (In order: arXiv:1511.06434, arXiv:1312.6120, AISTATS.) Biases of these layers become zero;
    statistics and all other parameters are left alone. The norms are the affine batch and instance
    norms of torch.nn and fastgan.nn. The orthogonal matrix is the weight with its first axis as
    rows. Layers under `spectral_norm` get the weight that is to be normalised, and their norm is
    estimated anew.

    Raises:
        ValueError: an unknown scheme, a negative std or gain, or a weight with a parametrization of
            another kind.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"unknown scheme {scheme!r}; there are {', '.join(SCHEMES)}")
    for argument, value in (("std", std), ("gain", gain)):
        if not value >= 0:
            raise ValueError(f"{argument} must be at least 0, got {value!r}")
    for name, child in module.named_modules():
        if isinstance(child, LINEAR):
            _draw(_free_weight(name, child), scheme, std, gain)
            _settle(child)
        elif hasattr(child, "running_mean") and isinstance(child.weight, Tensor):
            nn.init.normal_(child.weight, 1.0, std if scheme == "normal" else 0.0)
        else:
            continue
        if isinstance(child.bias, Tensor):
            nn.init.zeros_(child.bias)
    return module


def init_weights(module: nn.Module, std: float = 0.02) -> nn.Module:
    """`initialize(module, "normal", std=std)`: what DCGAN does.

    Source: Radford, Metz, Chintala 2016, "Unsupervised Representation Learning with Deep
    Convolutional Generative Adversarial Networks", section 4, and the authors' code for the norm.
    """
    return initialize(module, "normal", std=std)


def _draw(weight: Tensor, scheme: str, std: float, gain: float) -> None:
    if scheme == "normal":
        nn.init.normal_(weight, 0.0, std)
    elif scheme == "orthogonal":
        nn.init.orthogonal_(weight, gain)
    else:
        nn.init.xavier_uniform_(weight, gain)


def _parametrizations(layer: nn.Module) -> Any:
    """The list of what makes the layer's weight, or None where it is a plain parameter."""
    if not parametrize.is_parametrized(layer, "weight"):
        return None
    return layer.parametrizations["weight"]  # type: ignore[index]


def _free_weight(name: str, layer: nn.Module) -> Any:
    """The parameter that the layer's weight is, or is made of."""
    made_by = _parametrizations(layer)
    if made_by is None:
        return layer.weight
    if not all(hasattr(p, "_u") for p in made_by):
        raise ValueError(f"{name}.weight must be plain or under spectral norm, got {made_by}")
    return made_by.original


@torch.no_grad()
def _settle(layer: nn.Module) -> None:
    """Let the vectors of a spectral norm follow a new weight."""
    made_by = _parametrizations(layer)
    if made_by is not None:
        with modes_kept(made_by):
            made_by.train()
            for _ in range(_SETTLING):
                made_by()
