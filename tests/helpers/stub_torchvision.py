"""What timm and torch-fidelity import of torchvision, where it does not import itself.

Run as a program it stands in for torchvision and then runs the main function of the module that is
named: `stub_torchvision.py torch_fidelity.fidelity --fid ...`.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

NAMES = [
    "torchvision", "torchvision.datasets", "torchvision.models",
    "torchvision.models.feature_extraction", "torchvision.ops", "torchvision.ops.misc",
    "torchvision.transforms", "torchvision.transforms.functional", "torchvision.utils",
]  # fmt: skip


class _Named(type):
    """A class whose attributes are their own names, as those of an enumeration."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return f"{cls.__name__}.{name}"


class _Stub(ModuleType):
    """A module that has every name: a class of it."""

    __path__ = ()  # of a package

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Named(name, (), {})


class FrozenBatchNorm2d(nn.Module):
    """Only its name is asked for."""


class Compose:
    def __init__(self, transforms: list[Any]) -> None:
        self.transforms = transforms

    def __call__(self, image: Any) -> Any:
        for transform in self.transforms:
            image = transform(image)
        return image


def pil_to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def imports_itself() -> bool:
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError):
        return False
    return True


def modules() -> dict[str, ModuleType]:
    """The stand-ins by their names, to be put into `sys.modules`."""
    made = {name: _Stub(name) for name in NAMES}
    for name, module in made.items():
        parent, _, own = name.rpartition(".")
        if parent:
            setattr(made[parent], own, module)
    made["torchvision.ops.misc"].FrozenBatchNorm2d = FrozenBatchNorm2d
    made["torchvision.transforms"].Compose = Compose
    made["torchvision.transforms.functional"].pil_to_tensor = pil_to_tensor
    return made


if __name__ == "__main__":
    if not imports_itself():
        sys.modules.update(modules())
    _, module, *sys.argv[1:] = sys.argv
    importlib.import_module(module).main()
