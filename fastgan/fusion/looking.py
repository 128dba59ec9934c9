"""What a plan relies on as entries that C++ looks at in one call (`fastgan.nn.steps.unchanged`).

It says that all is as it was where a `Watch` would; where it does not, the watch is to be asked.
"""

from __future__ import annotations

import types
from collections.abc import Iterable
from typing import Any

from torch import nn

from fastgan.fusion.watching import MISSING, Watch
from fastgan.nn.layers import HOOKS
from fastgan.nn.steps import ALL, ANY, NOTHING, SOME, State


def entries(watch: Watch, unhooked: Iterable[nn.Module]) -> State | None:
    """Of all that a watch holds, and of modules that nobody is to hook into; None where some of it
    has to be compared in Python."""
    if watch.names is None or watch.outside is None or watch.contents or watch.outside:
        return None
    found: list[Any] = []
    for module, held in watch.attributes.items():
        for name, value in held.items():
            found += (vars(module), name, value)
    for holder, name, value in watch.names:
        if type(holder) is not types.ModuleType:
            return None
        found += (vars(holder), name, value)
    if any(map(_is_not_itself, found[2::3])):
        return None
    found = [NOTHING if isinstance(e, str) and e == MISSING else e for e in found]
    for module, children in watch.children.items():
        modules = module._modules
        found += (vars(module), "_modules", modules, modules, ALL, children)
    for (module, kind, name), there in watch.tensors.items():
        own = vars(module)[kind]
        expected = SOME if there else None if name in own else NOTHING
        found += (vars(module), kind, own, own, name, expected)
    for module in unhooked:
        for name in HOOKS:
            found += (vars(module), name, {})
    return tuple(found)


def in_mode(modules: Iterable[nn.Module], training: bool) -> State:
    """That modules are all in training, or all in evaluation."""
    return tuple(e for module in modules for e in (vars(module), "training", training))


def _is_not_itself(value: Any) -> bool:
    """Whether an entry would say something else by a value than that it was there."""
    return isinstance(value, dict) or any(value is word for word in (ANY, NOTHING, SOME))
