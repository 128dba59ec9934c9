"""What a run was given beside its configuration, as JSON, so that a resume with others is found.

A part is described by the name of its class or function and by its settings. The settings are what
the part's own ``settings()`` returns, a dictionary; without one they are the public attributes that
hold plain values (numbers, strings, lists and dictionaries of them), and those of the modules
inside. Tensors are state, not settings. A lambda, and any other value, is known by its type only.

Names are without their modules: a script is ``__main__`` when it is run and has a name when it is
imported, and modules are moved.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Mapping, Sized
from typing import Any

from torch import Tensor, nn

_OF_MODULES = {"training"}  # a mode, not a setting
# Of lists and dictionaries: what is longer or deeper is known by its type.
_LONGEST, _DEEPEST = 256, 8


def describe(part: object) -> Any:
    """``part`` as JSON: null for None, else an object with its ``type`` and its settings."""
    return json.loads(json.dumps(_described(part)))


def changed_parts(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two ``{name: description}``, an entry a setting.

    Parts and settings that only one side speaks of are not compared: another version wrote it.
    """
    return [
        told for name in sorted(saved.keys() & now.keys()) for told in _changed(name, saved, now)
    ]


def _changed(key: Any, saved: Any, now: Any, where: str = "") -> Iterator[str]:
    theirs, ours = saved[key], now[key]
    place = f"{where}[{key}]" if isinstance(key, int) else f"{where}.{key}".removeprefix(".")
    if json.dumps(theirs, sort_keys=True) == json.dumps(ours, sort_keys=True):
        return
    if _inner_parts(theirs) == _inner_parts(ours) and theirs["type"] == ours["type"]:
        for inner in sorted(theirs.keys() & ours.keys()):
            yield from _changed(inner, theirs, ours, place)
        return
    both_lists = isinstance(theirs, list) and isinstance(ours, list)
    if both_lists and len(theirs) == len(ours) and any(map(_is_part, theirs)):
        for i in range(len(theirs)):
            yield from _changed(i, theirs, ours, place)
        return
    yield f"{place}: {_brief(theirs)} in the checkpoint, {_brief(ours)} now"


def _is_part(value: Any) -> bool:
    return isinstance(value, dict) and "type" in value


def _inner_parts(value: Any) -> set[str] | object:
    """The names of the parts of a part; of anything else what equals nothing."""
    return {k for k in value if _is_part(value[k])} if _is_part(value) else object()


def _brief(value: Any) -> str:
    if _is_part(value):
        shown = [f"{k}={v!r}" for k, v in value.items() if k != "type" and not _is_part(v)]
        return f"{value['type']}({', '.join(shown[:4])}{', ...' if len(shown) > 4 else ''})"
    if isinstance(value, list):
        return f"[{', '.join(map(_brief, value))}]"
    return repr(value)


def _described(part: Any) -> Any:
    if part is None:
        return None
    if isinstance(part, functools.partial):
        given = [_plain(value) for value in part.args]
        named = {name: _plain(value) for name, value in part.keywords.items()}
        return {"type": "partial", "of": _described(part.func), "args": given, **named}
    name = getattr(part, "__qualname__", None)
    if isinstance(name, str):  # a function, a method, a class
        owner = getattr(part, "__self__", None)
        bound = {} if owner is None or isinstance(owner, type) else {"of": _described(owner)}
        return {"type": _known(name), **bound}
    return {"type": type(part).__qualname__, **_settings(part)}


def _settings(part: Any) -> dict[str, Any]:
    own = getattr(part, "settings", None)
    if callable(own):
        return {str(name): _plain(value) for name, value in own().items()}
    if isinstance(part, tuple) and hasattr(part, "_asdict"):
        public = part._asdict()
    else:
        public = {k: v for k, v in getattr(part, "__dict__", {}).items() if not k.startswith("_")}
    settings = {
        name: _plain(value)
        for name, value in public.items()
        if name not in _OF_MODULES and not isinstance(value, Tensor)
    }
    if isinstance(part, nn.Module):
        settings |= {name: _described(inner) for name, inner in part.named_children()}
    return settings


def _plain(value: Any, depth: int = 0) -> Any:
    """A value of an attribute: as it is, if it is plain, else the name of what it is."""
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)  # JSON has no such number
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    short = isinstance(value, Sized) and len(value) <= _LONGEST and depth < _DEEPEST
    if isinstance(value, Mapping) and short:
        return {str(name): _plain(entry, depth + 1) for name, entry in value.items()}
    if isinstance(value, (list, tuple)) and short:
        return [_plain(entry, depth + 1) for entry in value]
    name = getattr(value, "__qualname__", None)
    return {"type": _known(name) if isinstance(name, str) else type(value).__qualname__}


def _known(name: str) -> str:
    """The name of a function; where a lambda stands tells nothing of what it does."""
    return "<lambda>" if name.endswith("<lambda>") else name
