"""What the code of a function reads from outside, and what in it tells stand-ins from tensors."""

from __future__ import annotations

import builtins
import dis
import sys
import types
from typing import Any, NamedTuple

from torch import Tensor, nn

from fastgan.fusion.purity import is_observed
from fastgan.fusion.watching import Unwatchable


class Read(NamedTuple):
    """An attribute of a Python module; None for globals that are not those of a module."""

    holder: types.ModuleType | None
    name: str
    value: Any


def reads(frame: types.FrameType) -> list[Read]:
    """The global names that a function speaks of, and what it reads of the modules among them.

    Unwatchable where it is not seen what is read.
    """
    found: list[Read] = []
    instructions = list(dis.get_instructions(frame.f_code))
    for i, instruction in enumerate(instructions):
        if instruction.opname not in ("LOAD_GLOBAL", "LOAD_NAME"):
            continue
        read = _global(frame.f_globals, instruction.argval)
        if read is None:  # to be an error, or set by the function itself
            continue
        found.append(read)
        for following in instructions[i + 1 :]:
            module = read.value
            if not isinstance(module, types.ModuleType):
                break
            if module.__name__.startswith("torch.backends"):
                raise Unwatchable(f"it asks for {module.__name__}")
            if following.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
                if is_observed(module.__name__):
                    raise Unwatchable(f"it hands on the module {module.__name__}")
                break
            if not hasattr(module, following.argval):
                break
            read = Read(module, following.argval, _unwrapped(getattr(module, following.argval)))
            found.append(read)
    return found


def _global(names: dict[str, Any], name: str) -> Read | None:
    if name in names:
        module = sys.modules.get(names.get("__name__", ""))
        ours = module is not None and vars(module) is names
        return Read(module if ours else None, name, _unwrapped(names[name]))
    return Read(builtins, name, vars(builtins)[name]) if name in vars(builtins) else None


def _unwrapped(value: Any) -> Any:
    """While torch.fx traces, a wrapper of its own stands for functions of `math` and the like."""
    function = isinstance(value, types.FunctionType) and hasattr(value, "__wrapped__")
    if function and value.__globals__.get("__name__") == "torch.fx._symbolic_trace":
        return value.__wrapped__
    return value


def why_undecidable(frame: types.FrameType) -> str | None:
    """What a function does that may tell stand-ins from tensors, or be lost, with nobody seeing."""
    instructions = list(dis.get_instructions(frame.f_code))
    names = [(instruction.opname, instruction.argval) for instruction in instructions]
    for i, (operation, name) in enumerate(names):
        before, after = names[:i], (*names[i + 1 : i + 2], ("", None))[0]
        if operation == "LOAD_GLOBAL" and name == "type" and not _is_module(after, frame):
            return "it asks for the type of a value"
        if operation == "IS_OP" and not _knows(before, frame):
            return "it asks whether two values are the same object"
        if operation in ("CHECK_EXC_MATCH", "JUMP_IF_NOT_EXC_MATCH"):
            return "it catches exceptions"
        if operation == "PUSH_EXC_INFO" and after[0] == "POP_TOP":
            return "it catches exceptions"
        if operation in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            return f"it sets the global variable {name}"
        if operation == "IMPORT_NAME" and (not name or is_observed(name)):
            return f"it imports {name or 'a module'} as it runs"
        of_super = operation == "LOAD_ATTR" and ("CALL", 0) in before[-1:]
        of_super &= "super" in frame.f_code.co_names
        if (of_super or operation == "LOAD_SUPER_ATTR") and _is_parents_data(frame, name):
            return f"it reads {name} of a parent class by super()"
    return None


def _is_module(loaded: tuple[str, Any], frame: types.FrameType) -> bool:
    """Whether an instruction loads an argument of a function that is a module."""
    operation, name = loaded
    local = frame.f_locals.get(name) if operation.startswith("LOAD_FAST") else None
    return isinstance(local, nn.Module)


def _knows(before: list[tuple[str, Any]], frame: types.FrameType) -> bool:
    """Whether the two values that were loaded last are None, or known to be no stand-ins."""
    if before[-1] == ("LOAD_CONST", None):
        return True
    for _ in range(2):
        while before and before[-1][0] == "LOAD_ATTR":
            _, name = before.pop()
            if not callable(getattr(Tensor, name, len)):  # as x.dtype
                return False
        if not before:
            return False
        loaded = before.pop()
        if loaded[0] not in ("LOAD_GLOBAL", "LOAD_CONST") and not _is_module(loaded, frame):
            return False
    return True


def _is_parents_data(frame: types.FrameType, name: str) -> bool:
    """Whether parents hold under a name what is neither a method nor a property."""
    first = frame.f_locals.get(frame.f_code.co_varnames[0]) if frame.f_code.co_varnames else None
    kind = first if isinstance(first, type) else type(first)
    held = [vars(parent)[name] for parent in kind.__mro__[1:] if name in vars(parent)]
    methods = (types.FunctionType, staticmethod, classmethod, property)
    return any(not isinstance(value, methods) for value in held)
