"""Modules of fastgan.nn exchanged for the torch.nn modules that they stand for."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from fastgan.nn import (
    BatchNormAct1d,
    BatchNormAct2d,
    BatchNormAct3d,
    BiasAct,
    InstanceNormAct1d,
    InstanceNormAct2d,
    InstanceNormAct3d,
)
from fastgan.nn.norm_act import _Activated

_Model = TypeVar("_Model", bound=nn.Module)
_NORMS: dict[type[nn.Module], type[nn.Module]] = {
    BatchNormAct1d: nn.BatchNorm1d,
    BatchNormAct2d: nn.BatchNorm2d,
    BatchNormAct3d: nn.BatchNorm3d,
    InstanceNormAct1d: nn.InstanceNorm1d,
    InstanceNormAct2d: nn.InstanceNorm2d,
    InstanceNormAct3d: nn.InstanceNorm3d,
}


def lower(model: _Model) -> _Model:
    """Puts torch.nn's modules in the place of fastgan's, in place; returns `model`.

    Parameters and buffers are the same objects, under longer names. For inference: settings that
    concern training alone (segments, synchronised statistics) are dropped.
    """
    done: dict[nn.Module, nn.Module] = {}
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None:
                parent._modules[name] = done.setdefault(child, _lowered(child))
    return model


def _lowered(module: nn.Module) -> nn.Module:
    kind = _NORMS.get(type(module))
    if kind is not None:
        assert isinstance(module, _Activated)
        activation = activation_module(module.activation, module.negative_slope)
        norm = _as(module, kind)
        layers = [norm, activation] if module.order == "norm_act" else [activation, norm]
        return nn.Sequential(*layers)
    if isinstance(module, BiasAct):
        activation = activation_module(module.activation, module.negative_slope)
        return nn.Sequential(_Bias(module.bias), activation)
    return module


def _as(module: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """The same parameters, buffers and settings, as another class."""
    other = kind.__new__(kind)
    other.__dict__.update(module.__dict__)
    return other


def activation_module(activation: str, negative_slope: float) -> nn.Module:
    """The torch.nn module of an activation by the name that fastgan's ops have for it."""
    if activation == "leaky_relu":
        return nn.LeakyReLU(negative_slope)
    kinds = {"relu": nn.ReLU, "identity": nn.Identity, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}
    return kinds[activation]()


class _Bias(nn.Module):
    bias: Tensor | None

    def __init__(self, bias: Tensor | None) -> None:
        super().__init__()
        self.register_parameter("bias", bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is None:
            return x
        return x + torch.reshape(self.bias, (-1, *(1,) * (x.dim() - 2)))
