"""Which code is looked into while tracing, and which calls are taken for functions of their inputs.

Code of torch, of fastgan's layers and of a few standard modules is not looked into: what may be
called there from elsewhere stands in the tables below. All other code is observed as it runs, so
that of it only calls into C have to stand here.
"""

from __future__ import annotations

import builtins
import collections
import contextlib
import enum
import functools
import logging
import operator
import pathlib
import re
import sys
import types
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

_STANDARD = {
    "_collections_abc", "abc", "builtins", "collections", "contextlib", "copyreg", "dataclasses",
    "enum", "functools", "itertools", "math", "numbers", "operator", "re", "types", "typing",
    "typing_extensions",
}  # fmt: skip
_FASTGAN = {"fusion", "kernels", "nn", "ops"}
_CONTAINERS = {f"torch.nn.modules.{name}" for name in ("container", "module", "utils")}
_TORCH = (  # modules whose functions record what they do with a stand-in, or decide nothing
    "torch.functional", "torch.fx", "torch.nn.functional", "torch.nn.modules", "torch.nn.parameter",
    "torch.nn.utils.parametrize", "torch._jit_internal", "torch._ops", "torch._tensor",
)  # fmt: skip
_OF_MODULES = {
    "__delattr__", "__getattr__", "__init__", "__setattr__", "_call_impl", "_get_name",
    "_named_members", "_wrapped_call_impl", "buffers", "children", "forward", "get_buffer",
    "get_parameter", "get_submodule", "modules", "named_buffers", "named_children", "named_modules",
    "named_parameters", "parameters", "register_buffer", "register_parameter",
}  # fmt: skip
_BOOKKEEPING = {  # what torch.compile leaves in a process: called as modules begin and end
    ("torch._dynamo.mutation_guard", "patched_init"), ("torch._dynamo.utils", "<lambda>"),
}  # fmt: skip
_BUILTINS = {
    "__build_class__", "abs", "all", "any", "ascii", "bin", "chr", "delattr", "divmod", "format",
    "getattr", "hasattr", "hash", "hex", "isinstance", "issubclass", "iter", "len", "max", "min",
    "next", "oct", "ord", "pow", "repr", "round", "setattr", "sorted", "sum",
}  # fmt: skip
_MODULES = {"math", "_operator", "_functools", "cmath", "_abc", "_bisect"}
_MODULES |= {f"torch._C._{name}" for name in ("fft", "linalg", "nn", "sparse", "special")}
_NUMPY_STATE = {"empty", "empty_like", "fromfile", "genfromtxt", "load", "loadtxt", "memmap"}
_PURE: tuple[type, ...] = (
    bool, bytes, complex, dict, float, frozenset, int, list, range, set, slice, str, tuple,
    collections.deque, type({}.keys()), type({}.values()), type({}.items()), types.GeneratorType,
    types.MappingProxyType, re.Pattern, re.Match, np.ndarray, np.generic, Tensor, torch.Size,
    torch.device, torch.dtype,
)  # fmt: skip
_CONSTANT: tuple[type, ...] = (
    bool, bytes, complex, float, frozenset, int, range, slice, str, type(None), type(...),
    type(NotImplemented), enum.Enum, logging.Logger, pathlib.PurePath, re.Pattern, np.generic,
    np.dtype, np.ufunc, torch.device, torch.dtype, torch.finfo, torch.iinfo, torch.layout,
    torch.memory_format, type(torch.ops), type(torch.ops.aten), torch._ops.OpOverloadPacket,
    torch._ops.OpOverload, types.WrapperDescriptorType, types.MethodDescriptorType,
    types.GetSetDescriptorType, types.MemberDescriptorType, operator.itemgetter,
    operator.attrgetter, operator.methodcaller, types.CodeType,
)  # fmt: skip
_WORDS = {  # by the beginning of a function's full name
    "torch.autograd.grad_mode": "switches gradients",
    "torch.utils._contextlib": "switches gradients or autocast",
    "torch.is_grad_enabled": "asks whether gradients are on",
    "torch.is_inference_mode_enabled": "asks whether gradients are on",
    "torch.is_autocast": "asks for autocast",
    "torch.get_autocast": "asks for autocast",
    "torch.amp": "enters an autocast region",
    "torch.cuda.amp": "enters an autocast region",
    "torch.cpu.amp": "enters an autocast region",
    "torch.utils.checkpoint": "recomputes activations",
    "torch.is_tensor": "asks for the type of a value",
    "torch.typename": "asks for the type of a value",
    "builtins.callable": "asks for the type of a value",
    "builtins.type": "asks for the type of a value",
    "builtins.print": "prints",
    "torch.random": "draws random numbers",
    "numpy.random": "draws random numbers",
    "random.": "draws random numbers",
    "_random.": "draws random numbers",
    "time.": "asks for the time",
}


@functools.cache
def is_observed(module: str) -> bool:
    """Whether code of a Python module is looked into while it runs."""
    top, _, rest = module.partition(".")
    if top == "torch":
        return module.startswith("torch.nn.modules.") and module not in _CONTAINERS
    if top == "fastgan":
        return rest.partition(".")[0] not in _FASTGAN
    if top == "numpy":
        return module.startswith("numpy.random")
    return top not in _STANDARD and not top.startswith("namedtuple_")


@functools.cache
def _is_pythons(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names


def of_observed(frame: types.FrameType) -> bool:
    """Whether what a frame does is looked at: Python's own library is for those who call it."""
    if not is_observed(frame.f_globals.get("__name__", "")):
        return False
    at: types.FrameType | None = frame
    while at is not None and _is_pythons(module := at.f_globals.get("__name__", "")):
        at = at.f_back
    return at is not None and is_observed(module)


def of_stand_ins(frame: types.FrameType) -> bool:
    """Whether a frame's code may ask stand-ins what they are: torch's and ours."""
    module = frame.f_globals.get("__name__", "")
    if module == "abc" and frame.f_back is not None:  # for whoever calls isinstance
        return of_stand_ins(frame.f_back)
    return module.partition(".")[0] in ("torch", "fastgan") and not is_observed(module)


def is_of_torch(function: Any) -> bool:
    """Whether a C function is one that records what it does with a stand-in."""
    owner = getattr(function, "__self__", None)
    if getattr(function, "__qualname__", "").startswith("_VariableFunctionsClass."):
        return True
    return isinstance(owner, Tensor) or getattr(owner, "__name__", "").startswith("torch._C._")


def called(name: str) -> str:
    """What to say of a call of a function by its full name."""
    return _said(name) or f"it calls {name}, which is not known to be a function of its inputs"


def unseen(name: str) -> str:
    """What to say of a value that cannot be looked into, by the full name of its class."""
    return _said(name) or f"it reads a {name}, of which a change would not be seen"


def _said(name: str) -> str | None:
    found = [words for beginning, words in _WORDS.items() if name.startswith(beginning)]
    return f"it {found[0]} ({name})" if found else None


def _full_name(function: Any) -> str:
    owner = getattr(function, "__self__", None)
    module = getattr(function, "__module__", None)
    if isinstance(owner, types.ModuleType):
        module = module or owner.__name__
    elif owner is not None:
        module = type(owner).__module__
    name = getattr(function, "__qualname__", getattr(function, "__name__", type(function).__name__))
    return f"{module}.{name}"


def why_impure(function: Any) -> str | None:
    """Why a callable of C is not taken for a function of its inputs; None where it is."""
    owner = getattr(function, "__self__", None)
    if is_of_torch(function):
        return None
    if function is open:
        return called("builtins.open")
    if isinstance(owner, types.ModuleType):
        pure = owner.__name__ in _MODULES
        if owner is builtins:
            pure = function.__name__ in _BUILTINS
        elif owner.__name__.startswith("numpy."):
            pure = owner.__name__ != "numpy.random" and function.__name__ not in _NUMPY_STATE
    elif isinstance(owner, type):
        pure = owner in _PURE or function.__name__ == "__new__"
    elif owner is not None:
        pure = isinstance(owner, _PURE)
    else:
        module = str(getattr(function, "__module__", ""))
        pure = module.startswith("numpy") and not module.startswith("numpy.random")
        pure &= getattr(function, "__name__", "load") not in _NUMPY_STATE
    return None if pure else called(_full_name(function))


def why_impure_call(frame: types.FrameType) -> str | None:
    """The same of a function of Python that is not looked into, as it begins to run."""
    module, name = frame.f_globals.get("__name__", ""), frame.f_code.co_name
    if (module, name) in _BOOKKEEPING:
        return None
    if contextlib.suppress in type(frame.f_locals.get("self")).__mro__:
        return "it catches exceptions"
    if module == "torch.nn.modules.module":
        pure = name in _OF_MODULES
    elif module.startswith("torch"):
        pure = module.startswith(_TORCH) or name == "_assert"
    else:
        pure = name not in _NUMPY_STATE
    return None if pure else called(f"{module}.{name}")


def is_constant(value: Any) -> bool:
    """Whether a value cannot change, or is taken for one that does not."""
    if isinstance(value, types.ModuleType):
        return not is_observed(value.__name__) and not value.__name__.startswith("torch.backends")
    if isinstance(value, type):
        known = not is_observed(value.__module__) or issubclass(value, enum.Enum)
        return known and value is not type
    if isinstance(value, types.FunctionType):
        # Of torch's the closures hold but torch's own; others' may hold a decorated function.
        name = str(value.__globals__.get("__name__", ""))
        return not is_observed(name) and (name.startswith("torch") or value.__closure__ is None)
    # Of messages the calls tell; code that would write some may never be run.
    return isinstance(value, _CONSTANT) or value is print or value is warnings.warn


def is_of_c(kind: type) -> bool:
    """Whether a class is implemented in C, so that its instances may hold what nobody sees."""
    module = sys.modules.get(kind.__module__)
    file = str(getattr(module, "__file__", None) or "")
    if file.endswith((".so", ".pyd")) or kind.__module__ in sys.builtin_module_names:
        return True
    return "__module__" not in vars(kind)
