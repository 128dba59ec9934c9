"""fastgan: the fastest correct way to train convolutional GANs on PyTorch.

Importing this package builds nothing, probes nothing and prints nothing: what a name needs is
imported when the name is first used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers, which do not run __getattr__
    from fastgan import augment as augment
    from fastgan import data as data
    from fastgan import engine as engine
    from fastgan import fusion as fusion
    from fastgan import losses as losses
    from fastgan import metrics as metrics
    from fastgan import models as models
    from fastgan import nn as nn
    from fastgan import ops as ops
    from fastgan import optim as optim
    from fastgan import recipes as recipes
    from fastgan import regularizers as regularizers
    from fastgan.engine import TrainConfig, Trainer, load_generator
    from fastgan.fusion import explain, fold, fuse, unfuse
    from fastgan.ops import backend
    from fastgan.recipes import train

__version__ = "0.1.0"

_LAZY = {
    "Trainer": "fastgan.engine",
    "TrainConfig": "fastgan.engine",
    "load_generator": "fastgan.engine",
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
    "load_generator",
    "train",
    "unfuse",
]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in _LAZY:
            return getattr(import_module(_LAZY[name]), name)
        if name in _SUBMODULES:
            return import_module(f"fastgan.{name}")
        raise AttributeError(
            f"module 'fastgan' has no attribute {name!r}", name=name, obj=sys.modules[__name__]
        )


def __dir__() -> list[str]:
    return sorted([*__all__, *_SUBMODULES])
