"""How the flags of a command read in its help."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from fastgan.recipes.config_file import field_docs

REGISTRY = ConstructorRegistry()
"""For tyro: it breaks help where its source does, and tells of None, where the text says what comes
by default, "{None}|INT" and "(default: None)"."""

_POSITIONAL: Any = tyro.conf.Positional[int]
_METAVARS = {int: "INT", float: "FLOAT", str: "STR", Path: "PATH"}


@REGISTRY.struct_rule
def _dataclass(info: StructTypeInfo) -> StructConstructorSpec | None:
    kind = info.type
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return None
    return StructConstructorSpec(instantiate=kind, fields=tuple(_fields(kind, info.default)))


@REGISTRY.primitive_rule
def _number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """A number, told in words where it is none: tyro shows Python's own."""
    kind = info.type
    if kind not in (int, float):
        return None

    def read(words: list[str]) -> Any:
        try:
            return kind(words[0])
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise ValueError(f"expected {what}, got {words[0]!r}") from None

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=_METAVARS[kind],
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, (int, kind)) and not isinstance(value, bool),
        str_from_instance=lambda value: [str(value)],
    )


def _fields(kind: type[Any], instance: Any) -> Iterator[StructFieldSpec]:
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint: Any = hints[field.name]
        default = field.default
        if isinstance(instance, kind):
            default = getattr(instance, field.name)
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        elif default is dataclasses.MISSING:
            default = tyro.MISSING
        if not dataclasses.is_dataclass(hint):
            metavar = _metavar(hint, field.name)
            mark = tyro.conf.arg(metavar=metavar, help_behavior_hint=_default)
            hint = Annotated[hint, mark]
        yield StructFieldSpec(
            name=field.name, type=hint, default=default, helptext=partial(_doc, kind, field.name)
        )


def _default(label: str) -> str:
    return "" if label in ("", "None") else f"(default: {label})"


def _metavar(hint: Any, name: str) -> str | None:
    """What stands for a path or a word without a flag, and for a value that may be None; tyro's own
    for the others."""
    marks = getattr(hint, "__metadata__", ())
    hint = hint.__origin__ if marks else hint
    if _POSITIONAL.__metadata__[0] in marks and hint in (Path, str):
        return name.upper()
    kinds = typing.get_args(hint)
    if type(None) not in kinds:
        return None
    (kind,) = (k for k in kinds if k is not type(None))
    if typing.get_origin(kind) is Literal:
        return "{" + ",".join(map(str, typing.get_args(kind))) + "}"
    if typing.get_origin(kind) is tuple:
        return f"[{_METAVARS[typing.get_args(kind)[0]]} ...]"
    return _METAVARS[kind]


def _doc(kind: Any, name: str) -> str | None:
    return _docs(kind).get(name)


@cache
def _docs(kind: Any) -> dict[str, str]:
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        # A class that was put together from others has no source of its own.
        if hasattr(base, "__dataclass_fields__"):
            with suppress(OSError, TypeError):
                docs |= field_docs(base)
    return docs
