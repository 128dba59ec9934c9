"""What the traced forwards read of the Python around them, and whether it is still the same.

Of every value that may change, what it held is kept, by identity: a list's entries, an object's
attributes, a function's closure. So a look at all of it is a few comparisons, of pointers where
nothing changed. What cannot be looked at in this way is `Unwatchable`.
"""

from __future__ import annotations

import functools
import inspect
import operator
import types
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, fx, nn

from fastgan.fusion.purity import is_constant, is_of_c, unseen, why_impure

MISSING = "<missing>"  # copies of a plan hold the same
_MAX_BYTES = 1 << 12  # of an array that is compared in each call
_MAX_HELD = 1 << 10  # values in all
_EQUAL = (bool, int, float, complex, str, bytes, frozenset)


class Unwatchable(Exception):
    """The message says of what a change would not be seen."""


def same(now: Any, old: Any) -> bool:
    """Whether a value is the one that was there, or a constant equal to it."""
    if now is old:
        return True
    if type(now) is not type(old):
        return False
    if type(old) is tuple:
        return len(now) == len(old) and all(map(same, now, old))
    return isinstance(old, _EQUAL) and bool(now == old)


class Content(NamedTuple):
    """What a value held, to be read again by `read`."""

    read: Callable[[Any], tuple[Any, ...]]
    value: Any
    held: tuple[Any, ...]

    def holds(self) -> bool:
        now, held = self.read(self.value), self.held
        return len(now) == len(held) and (
            all(map(operator.is_, now, held)) or all(map(same, now, held))
        )

    def put_back(self) -> None:
        """As far as that goes: it is for what the code of models does."""
        value, held = self.value, self.held
        if self.read in (_entries, _members):
            value.clear()
            value.extend(held) if self.read is _entries else value.update(held[0])
        elif self.read in (_pairs, _attributes):
            pairs = value if self.read is _pairs else vars(value)
            half = len(held) // 2
            pairs.clear()
            pairs.update(zip(held[:half], held[half:], strict=True))
        elif self.read is _class:
            half = len(held) // 2
            for name, old in zip(held[:half], held[half:], strict=True):
                if vars(value).get(name) is not old:
                    setattr(value, name, old)
        elif self.read is _cell:
            (value.cell_contents,) = held
        elif self.read is _array:
            value[...] = np.frombuffer(held[2], value.dtype).reshape(held[1])


def _entries(value: Any) -> tuple[Any, ...]:
    return tuple(value)


def _members(value: Any) -> tuple[Any, ...]:
    return (frozenset(value),)


def _pairs(value: Any) -> tuple[Any, ...]:
    return (*value, *value.values())


def _attributes(value: Any) -> tuple[Any, ...]:
    return _pairs(vars(value))


def _class(value: type) -> tuple[Any, ...]:
    """Without what Python itself keeps there, some of it only when it is asked for."""
    return _pairs({n: v for n, v in vars(value).items() if _is_written(n, v)})


def _is_written(name: str, value: Any) -> bool:
    return isinstance(value, types.FunctionType) or not name.startswith(("__", "_abc_"))


def _slots(value: Any) -> tuple[Any, ...]:
    return tuple(getattr(value, name, MISSING) for name in _slot_names(type(value)))


def _slot_names(kind: type) -> list[str]:
    own = [vars(parent).get("__slots__", ()) for parent in kind.__mro__]
    return [n for names in own for n in ([names] if isinstance(names, str) else names)]


def _cell(value: Any) -> tuple[Any, ...]:
    return (value.cell_contents,)


def _array(value: Any) -> tuple[Any, ...]:
    return (value.dtype.str, value.shape, value.tobytes())


class Outside(list[Any]):
    """What stands outside of a model: copies of it share that; for pickles it is read anew."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Outside:
        return self

    def __reduce__(self) -> Any:
        return (_lost, (bool(self),))


def _lost(held: bool) -> Outside | None:
    return None if held else Outside()


class Watch:
    """All that the traces of one forward have read.

    Attributes:
        attributes: of modules, {name: value} in their own dictionaries, MISSING if not there.
        children: of modules, {name: child}.
        tensors: (module, dictionary of the module, name, whether there is one).
        modes: the modules of which `training` was read.
        names: (Python module or class, name, value).
        contents: of what modules hold.
        outside: of what copies of them share. names and outside are None where the watch was
            pickled, and has to be made anew.
    """

    def __init__(self, root: nn.Module) -> None:
        self.reader: nn.Module | None = root
        self.readers: dict[int, nn.Module | None] = {}
        self.attributes: dict[nn.Module, dict[str, Any]] = {}
        self.children: dict[nn.Module, dict[str, Any]] = {}
        self.tensors: dict[tuple[nn.Module, str, str], bool] = {}
        self.modes: dict[nn.Module, None] = {}
        self.names: Outside | None = Outside()
        self.contents: list[Content] = []
        self.outside: Outside | None = Outside()
        self.seen: dict[int, Any] = {}
        self.functions: dict[int, types.CodeType] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in _WHILE_TRACING}

    def holds(self) -> bool:
        """Whether all of it is as it was."""
        for module, held in self.attributes.items():
            own = vars(module)
            for name, value in held.items():
                now = own.get(name, MISSING)
                if now is not value and not same(now, value):
                    return False
        for module, children in self.children.items():
            if vars(module)["_modules"] != children:
                return False
        for (module, kind, name), there in self.tensors.items():
            if (vars(module)[kind].get(name) is not None) is not there:
                return False
        for holder, name, value in self.names or ():
            now = getattr(holder, name, MISSING)
            if now is not value and not same(now, value):
                return False
        for contents in (self.contents, self.outside or ()):
            for content in contents:
                if not content.holds():
                    return False
        return True

    def put_back(self) -> tuple[nn.Module, str] | None:
        """Undoes what has changed since; (the module that read it first, what it was)."""
        found: tuple[Any, str] | None = None
        for holder, name, value in self.names or ():
            if getattr(holder, name, MISSING) is not value:
                found = self.reader, name
                setattr(holder, name, value)
        for content in (*self.contents, *(self.outside or ())):
            if not content.holds():
                found = self.readers[id(content.value)], f"a {type(content.value).__name__}"
                content.put_back()
        return found

    def read(self, module: nn.Module, name: str) -> None:
        """Takes note that code reads an attribute of a module."""
        own = vars(module)
        if name == "training":
            self.modes[module] = None
        elif name == "_modules":
            self.add(module)
        elif name == "__class__":
            self.add(type(module), outside=True)
        elif name in own:
            if name not in _OWN:
                self._attribute(module, name, own[name])
        elif name in own["_modules"]:
            self.children[module] = dict(own["_modules"])
            self.add(own["_modules"][name])
        else:
            for kind in ("_parameters", "_buffers"):
                if name in own[kind]:
                    self.tensors[module, kind, name] = own[kind][name] is not None
                    return
            self._of_class(module, name)

    def _attribute(self, module: nn.Module, name: str, value: Any) -> None:
        if isinstance(value, Tensor):  # the graph reads it when it runs
            return
        self.attributes.setdefault(module, {})[name] = value
        self.add(value)

    def _of_class(self, module: nn.Module, name: str) -> None:
        if hasattr(nn.Module, name):
            return
        self.attributes.setdefault(module, {})[name] = MISSING
        self.children[module] = dict(vars(module)["_modules"])
        found = inspect.getattr_static(type(module), name, MISSING)
        if isinstance(found, (types.FunctionType, property)) or not hasattr(found, "__get__"):
            self.name(type(module), name, found)
            self.add(found, outside=True)
        else:  # it is asked at each reading
            self.add(type(module), outside=True)

    def name(self, holder: Any, name: str, value: Any) -> None:
        """Takes note that code reads an attribute of a Python module or class."""
        entry = (holder, name, value)
        assert self.names is not None
        if not any(h is holder and n == name for h, n, _ in self.names):
            self.names.append(entry)

    def add(self, value: Any, outside: bool = False) -> None:
        """Watches what a value holds; Unwatchable, if that cannot be.

        Args:
            outside: it is held by something that is not copied with the model.
        """
        if isinstance(value, (Tensor, fx.Proxy)) or is_constant(value) or id(value) in self.seen:
            return
        self.readers[id(value)] = self.reader
        self.seen[id(value)] = value  # kept, so that nothing else comes by its id
        if len(self.seen) > _MAX_HELD:
            raise Unwatchable("it reads more values than would be compared in each call")
        if isinstance(value, nn.Module):
            self.children[value] = dict(vars(value)["_modules"])
            return
        for part, apart in _parts(value):
            self.add(part, outside or apart)
        for read in _readings(value):
            to = self.outside if outside or isinstance(value, _SHARED) else self.contents
            assert to is not None
            held = read(value)
            to.append(Content(read, value, held))
            for part in held:
                self.add(part, outside or isinstance(value, _SHARED))
        if isinstance(value, types.FunctionType):
            if value.__defaults__:
                self.name(value, "__defaults__", value.__defaults__)
            self.functions[id(value.__code__)] = value.__code__


def _parts(value: Any) -> list[tuple[Any, bool]]:
    """(what an unchangeable value consists of, whether copies of it share that)."""
    if isinstance(value, tuple):
        return [(part, False) for part in value]
    if isinstance(value, types.MethodType):
        return [(value.__self__, False), (value.__func__, True)]
    if isinstance(value, functools.partial):
        return [(value.func, False), (value.args, False), (value.keywords, False)]
    if isinstance(value, (staticmethod, classmethod)):
        return [(value.__func__, True)]
    if isinstance(value, property):
        return [(value.fget, True)]
    if isinstance(value, types.FunctionType):
        held = (value.__defaults__, value.__kwdefaults__, *(value.__closure__ or ()))
        return [(part, True) for part in held]
    if isinstance(value, type):
        return [(parent, True) for parent in value.__bases__]
    return [] if isinstance(value, _WHOLE) else [(type(value), True)]


def _readings(value: Any) -> list[Callable[[Any], tuple[Any, ...]]]:
    """How to read what a value holds that may change; Unwatchable, if that is not known."""
    kind = type(value)
    if isinstance(value, (*_WHOLE, property, functools.partial)):
        found = [read for held, read in _READ.items() if isinstance(value, held)]
        if isinstance(value, types.FunctionType):
            return [_attributes] * bool(vars(value))
        return found + [_attributes] * hasattr(value, "__dict__")
    if isinstance(value, type) and not is_of_c(value):
        return [_class]
    if kind is np.ndarray and value.dtype != object and value.nbytes <= _MAX_BYTES:
        return [_array]
    if callable(value) and is_of_c(kind):
        reason = why_impure(value)
    else:
        reason = None if _is_plain(value) else unseen(f"{kind.__module__}.{kind.__qualname__}")
    if reason is not None:
        raise Unwatchable(reason)
    return [_attributes] * hasattr(value, "__dict__") + [_slots] * bool(_slot_names(kind))


def _is_plain(value: Any) -> bool:
    """Whether an object holds nothing but attributes that Python shows."""
    kind = type(value)
    if kind.__reduce__ is not object.__reduce__ or kind.__reduce_ex__ is not object.__reduce_ex__:
        return kind is types.SimpleNamespace
    try:
        object.__reduce_ex__(value, 2)  # refuses what keeps more in C
    except Exception:  # of whatever its class does to be pickled
        return False
    return True


_WHILE_TRACING = {"seen", "functions", "reader", "readers"}
_OWN = set(vars(nn.Module()))
_SHARED = (types.FunctionType, types.CellType, type)  # a deep copy holds the same
_READ: dict[Any, Callable[[Any], tuple[Any, ...]]] = {
    (list, deque): _entries, set: _members, dict: _pairs, types.CellType: _cell,
}  # fmt: skip
_WHOLE = (
    list, deque, set, dict, tuple, types.CellType, types.FunctionType, types.MethodType,
    staticmethod, classmethod,
)  # fmt: skip
