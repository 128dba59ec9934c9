"""Modules of fastgan.nn exchanged for the torch.nn modules that they stand for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgan.nn import (
    BatchNormAct1d,
    BatchNormAct2d,
    BatchNormAct3d,
    BiasAct,
    FusedSequential,
    InstanceNormAct1d,
    InstanceNormAct2d,
    InstanceNormAct3d,
)
from fastgan.nn.conv_norm_act import activation_module
from fastgan.nn.norm_act import ActivatedNorm

_NORMS: dict[type[nn.Module], type[nn.Module]] = {
    BatchNormAct1d: nn.BatchNorm1d,
    BatchNormAct2d: nn.BatchNorm2d,
    BatchNormAct3d: nn.BatchNorm3d,
    InstanceNormAct1d: nn.InstanceNorm1d,
    InstanceNormAct2d: nn.InstanceNorm2d,
    InstanceNormAct3d: nn.InstanceNorm3d,
}


def lower(module: nn.Module) -> nn.Module:
    """`module` with torch.nn's modules in the place of fastgan's: changed in place where it can be.

    Parameters and buffers are the same objects, some under longer names. For inference: what
    concerns training alone (segments, synchronised statistics) is dropped.
    """
    return _lower(module, {})


def _lower(module: nn.Module, done: dict[nn.Module, nn.Module]) -> nn.Module:
    if module not in done:
        for name, child in module._modules.items():
            if child is not None:
                module._modules[name] = _lower(child, done)
        done[module] = _lowered(module)
    return done[module]


def _lowered(module: nn.Module) -> nn.Module:
    """What stands for a module whose children are lowered."""
    kind = _NORMS.get(type(module))
    if kind is not None:
        assert isinstance(module, ActivatedNorm)
        activation = activation_module(module.activation, module.negative_slope)
        norm = _as(module, kind)
        layers = [norm, activation] if module.order == "norm_act" else [activation, norm]
        return nn.Sequential(*layers)
    if isinstance(module, BiasAct):
        activation = activation_module(module.activation, module.negative_slope)
        return nn.Sequential(_Bias(module.bias), activation)
    if isinstance(module, FusedSequential):
        sequential = nn.Sequential()
        sequential._modules.update(module._modules)
        return sequential
    return module


def _as(module: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """The same parameters, buffers and settings, as another class."""
    other = kind.__new__(kind)
    other.__dict__.update(module.__dict__)
    return other


class _Bias(nn.Module):
    bias: Tensor | None

    def __init__(self, bias: Tensor | None) -> None:
        super().__init__()
        self.register_parameter("bias", bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is None:
            return x
        return x + torch.reshape(self.bias, (-1, *(1,) * (x.dim() - 2)))
