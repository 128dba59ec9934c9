"""Deep copies of modules that hold tensors which autograd has computed.

Old-style `torch.nn.utils.weight_norm` keeps the weight that it computes as an attribute, and so do
spectral_norm, pruning and whoever computes a tensor once in a constructor. `copy.deepcopy` refuses
such tensors.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

_Module = TypeVar("_Module", bound=nn.Module)
_OPAQUE = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, Tensor)


def copied(module: _Module) -> _Module:
    """A copy that shares nothing; a computed tensor is copied as a constant."""
    return copy.deepcopy(module, {id(t): t.detach().clone() for t in _computed(module)})


def sharing(module: _Module) -> _Module:
    """A copy with the same parameters, buffers and computed tensors, which gradients go through."""
    shared = (*module.parameters(), *module.buffers(), *_computed(module))
    return copy.deepcopy(module, {id(t): t for t in shared})


def emptied(module: _Module) -> _Module:
    """A copy whose parameters and buffers hold no values, on the meta device; it shares whatever
    other tensors there are."""
    memo: dict[int, Any] = {id(t): t for t in _tensors(module, set())}
    state = (*module.parameters(), *module.buffers())
    return copy.deepcopy(module, memo | {id(t): torch.empty_like(t, device="meta") for t in state})


def _computed(module: nn.Module) -> list[Tensor]:
    found: dict[int, Tensor] = {}
    for tensor in _tensors(module, set()):
        if not tensor.is_leaf:
            found[id(tensor)] = tensor
    return list(found.values())


def _tensors(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """Every tensor that a deep copy would come to."""
    if isinstance(value, Tensor):
        yield value
    if isinstance(value, _OPAQUE) or id(value) in seen:
        return
    seen.add(id(value))
    inner: list[Any] = []
    if isinstance(value, dict):
        inner += value.values()
    elif isinstance(value, (list, tuple, set, frozenset)):
        inner += value
    elif isinstance(value, types.MethodType):
        inner.append(value.__self__)
    inner += getattr(value, "__dict__", {}).values()
    for entry in inner:
        yield from _tensors(entry, seen)
