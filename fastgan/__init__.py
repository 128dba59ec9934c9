"""fastgan: the fastest correct way to train convolutional GANs on PyTorch.

Importing this package builds nothing, probes nothing and prints nothing: what a name needs is
imported when the name is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "Trainer": "fastgan.engine",
    "TrainConfig": "fastgan.engine",
    "train": "fastgan.recipes",
    "backend": "fastgan.ops",
    "explain": "fastgan.fusion",
    "fold": "fastgan.fusion",
    "fuse": "fastgan.fusion",
    "unfuse": "fastgan.fusion",
}
_SUBMODULES = (
    "augment",
    "data",
    "engine",
    "fusion",
    "losses",
    "metrics",
    "models",
    "nn",
    "ops",
    "optim",
    "recipes",
    "regularizers",
)

__all__ = [
    "TrainConfig",
    "Trainer",
    "__version__",
    "backend",
    "explain",
    "fold",
    "fuse",
    "train",
    "unfuse",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    if name in _SUBMODULES:
        return import_module(f"fastgan.{name}")
    raise AttributeError(f"module 'fastgan' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_SUBMODULES])
