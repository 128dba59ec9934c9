"""An operator's arguments as a NamedTuple: its schema follows from the fields, and it flattens.

A field that is a NamedTuple stands for its own fields, in order; lists of the schema are tuples.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Annotated, Any, TypeVar, get_type_hints

import torch
from torch import Tensor

A = TypeVar("A", bound=tuple[Any, ...])

Size = Annotated[int, "SymInt"]  # may be of a shape that is traced
_TYPES = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    float: "float",
    int: "int",
    bool: "bool",
    tuple[int, ...]: "int[]",
    torch.dtype: "ScalarType",
}


def _is_arguments(kind: Any) -> bool:
    return hasattr(kind, "_fields")


@cache
def schema_types(kind: type, prefix: str = "") -> dict[str, str]:
    """The schema's type of every flat argument, by its dotted path."""
    found = {}
    for name, of in get_type_hints(kind, include_extras=True).items():
        if _is_arguments(of):
            found.update(schema_types(of, f"{prefix}{name}."))
        else:
            found[prefix + name] = of.__metadata__[0] if hasattr(of, "__metadata__") else _TYPES[of]
    return found


@cache
def names(kind: type) -> tuple[str, ...]:
    """The names of the flat arguments: those of the fields, at whatever depth."""
    return tuple(path.rpartition(".")[2] for path in schema_types(kind))


def schema(kind: type) -> str:
    types = schema_types(kind).values()
    return ", ".join(f"{of} {name}" for of, name in zip(types, names(kind), strict=True))


def flat(arguments: tuple[Any, ...]) -> list[Any]:
    found: list[Any] = []
    for value in arguments:
        if isinstance(value, tuple) and _is_arguments(value):
            found += flat(value)
        else:
            found.append(value)
    return found


@cache
def _parts(kind: type) -> tuple[type | None, ...]:
    """Of each field the NamedTuple that it is, tuple for a list of the schema, or None."""
    hints = get_type_hints(kind).values()
    lists = tuple[int, ...]
    return tuple(of if _is_arguments(of) else tuple if of == lists else None for of in hints)


def build(kind: type[A], values: Iterable[Any]) -> A:
    """The arguments that `flat` made values of."""
    rest = iter(values)
    return kind(
        *[
            next(rest) if of is None else tuple(next(rest)) if of is tuple else build(of, rest)
            for of in _parts(kind)
        ]
    )
