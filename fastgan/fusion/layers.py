"""Activations that are called, and what a node of a graph changes in place or makes anew."""

from __future__ import annotations

import inspect
import operator
import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from fastgan.nn.layers import layer_kind
from fastgan.ops.core.tensors import is_slope

_CALLS: dict[Any, tuple[type[nn.Module], bool]] = {
    **dict.fromkeys((F.relu, torch.relu, "relu"), (nn.ReLU, False)),
    **dict.fromkeys((F.relu_, torch.relu_, "relu_"), (nn.ReLU, True)),
    **dict.fromkeys((F.tanh, torch.tanh, "tanh"), (nn.Tanh, False)),
    **dict.fromkeys((torch.tanh_, "tanh_"), (nn.Tanh, True)),
    **dict.fromkeys((F.sigmoid, torch.sigmoid, "sigmoid"), (nn.Sigmoid, False)),
    **dict.fromkeys((torch.sigmoid_, "sigmoid_"), (nn.Sigmoid, True)),
    F.leaky_relu: (nn.LeakyReLU, False),
    F.leaky_relu_: (nn.LeakyReLU, True),
}
_MUTATING: set[Callable[..., Any]] = {
    getattr(operator, f"i{name}")
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor")
}
_FRESH: set[Any] = {
    torch.cat, torch.concat, torch.add, torch.sub, torch.mul, torch.div, torch.stack,
    operator.add, operator.sub, operator.mul, operator.truediv, operator.matmul,
    F.conv1d, F.conv2d, F.conv3d, F.linear, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d,
    F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d, F.batch_norm, F.instance_norm,
}  # fmt: skip
_FRESH_MODULES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.MaxPool2d, nn.GroupNorm)


def called_activation(node: fx.Node) -> nn.Module | None:
    """The module that a call of `F.leaky_relu`, `torch.tanh`, `x.relu_()` ... amounts to."""
    if node.op not in ("call_function", "call_method") or node.target not in _CALLS:
        return None
    kind, inplace = _CALLS[node.target]
    names = {nn.LeakyReLU: ("input", "negative_slope", "inplace"), nn.ReLU: ("input", "inplace")}
    given = dict(zip(names.get(kind, ("input",)), node.args, strict=False))
    given.update(node.kwargs)
    given.pop("input", None)
    inplace = bool(given.pop("inplace", inplace))
    slope = given.pop("negative_slope", 0.01)
    if given or not is_slope(slope):
        return None
    if kind is nn.LeakyReLU:
        return nn.LeakyReLU(slope, inplace)
    if kind is nn.ReLU:
        return nn.ReLU(inplace)
    activation = kind()
    activation.inplace = inplace  # type: ignore[assignment]
    return activation


def mutates(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether a node may change one of its arguments in place."""
    if node.op == "call_module":
        return bool(getattr(modules[str(node.target)], "inplace", False))
    if node.op == "call_method":
        return _says_in_place(str(node.target))
    if node.op != "call_function":
        return False
    name = getattr(node.target, "__name__", "")
    in_place = _asked_in_place(node) or node.kwargs.get("out") is not None
    activation = called_activation(node)
    if activation is not None:
        in_place |= bool(getattr(activation, "inplace", False))
    return in_place or _says_in_place(name) or node.target in _MUTATING


def _asked_in_place(node: fx.Node) -> bool:
    """Whether a function's argument `inplace` is given and true, by name or by place."""
    given = node.kwargs.get("inplace", False)
    if node.args[1:] and isinstance(node.target, types.FunctionType):
        names = list(inspect.signature(node.target).parameters)[: len(node.args)]
        given = dict(zip(names, node.args, strict=False)).get("inplace", given)
    return bool(given)


def _says_in_place(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__")


def is_fresh(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether a node's value is memory of its own, which nothing else can be a view of."""
    if mutates(node, modules):
        return False
    if node.op == "call_module":
        module = modules[str(node.target)]
        known = layer_kind(module) in ("conv", "linear", "norm", "act")
        return known or isinstance(module, _FRESH_MODULES)
    return called_activation(node) is not None or node.target in _FRESH
