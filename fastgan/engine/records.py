"""JSON files of a run, which a disk, a merge or a person may have changed: read with a schema.

A check takes a value and the name of its field, and raises RecordError that names the field, what
stands there and what was expected. Fields that a schema does not name are left alone, so that
newer versions may write more.
"""

from __future__ import annotations

import dataclasses
import json
import math
import reprlib
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

Check = Callable[[Any, str], None]
T = TypeVar("T")

_DEEPEST = 64
_LARGEST = 2**63 - 1


class RecordError(ValueError):
    """A file of a run does not hold what was written into it."""


def parse(content: bytes | str) -> Any:
    """The JSON value of ``content``; RecordError for what is not JSON or is nested absurdly."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"not valid JSON: {error}") from error
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return value
    raise RecordError(f"nested more than {_DEEPEST} deep")


def read(path: Path, check: Check) -> Any:
    """The JSON of a file that passes ``check``.

    Raises:
        RecordError: it does not; names the file and the field.
        OSError: the file cannot be read.
    """
    try:
        value = parse(path.read_bytes())
        check(value, "")
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from error
    return value


def build(kind: type[T], values: Any, field: str) -> T:
    """The dataclass ``kind`` of the fields that ``values`` has; others keep their defaults.

    Raises:
        RecordError: a value is of another type, or out of the range that the class allows.
    """
    known = fields_of(kind)
    record({}, known)(values, field)
    try:
        return kind(**{name: value for name, value in values.items() if name in known})
    except (ValueError, TypeError) as error:
        raise RecordError(f"field {field}: {error}") from error


def anything(_value: Any, _field: str) -> None:
    """Any JSON value."""


def whole(low: int = 0) -> Check:
    """A whole number of at least ``low``."""

    def check(value: Any, field: str) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= _LARGEST:
            raise _wrong(value, field, f"a whole number from {low} to 2^63 - 1")

    return check


def number(value: Any, field: str) -> None:
    """A finite number."""
    if not _is_number(value) or not math.isfinite(value):
        raise _wrong(value, field, "a finite number")


def scalar(value: Any, field: str) -> None:
    """Any number; null and the names of those that JSON has no number for are numbers too."""
    if value is not None and not _is_number(value):
        raise _wrong(value, field, "a number or null")


def text(value: Any, field: str) -> None:
    if not isinstance(value, str):
        raise _wrong(value, field, "a string")


def flag(value: Any, field: str) -> None:
    if not isinstance(value, int) or value not in (0, 1):
        raise _wrong(value, field, "true or false")


def maybe(check: Check) -> Check:
    """null, or what ``check`` takes."""
    return lambda value, field: None if value is None else check(value, field)


def choice(allowed: tuple[Any, ...]) -> Check:
    def check(value: Any, field: str) -> None:
        if value not in allowed:
            raise _wrong(value, field, f"one of {', '.join(map(str, allowed))}")

    return check


def sequence(check: Check) -> Check:
    def checked(value: Any, field: str) -> None:
        if not isinstance(value, list):
            raise _wrong(value, field, "a list")
        for i, entry in enumerate(value):
            check(entry, f"{field}[{i}]")

    return checked


def table(check: Check = anything) -> Check:
    """An object of any names, whose values ``check`` takes."""

    def checked(value: Any, field: str) -> None:
        if not isinstance(value, dict):
            raise _wrong(value, field, "an object")
        for name, entry in value.items():
            check(entry, _inside(field, name))

    return checked


def record(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """An object with the ``required`` fields and, perhaps, the ``optional`` ones."""

    def checked(value: Any, field: str) -> None:
        table()(value, field)
        for name, check in required.items():
            if name not in value:
                raise RecordError(f"field {_inside(field, name)} is missing")
            check(value[name], _inside(field, name))
        for name, check in (optional or {}).items():
            if name in value:
                check(value[name], _inside(field, name))

    return checked


def fields_of(kind: type[Any]) -> dict[str, Check]:
    """A check for each field of a dataclass, by its annotation."""
    hints = typing.get_type_hints(kind)
    return {field.name: _check_of(hints[field.name]) for field in dataclasses.fields(kind)}


_PLAIN: dict[Any, Check] = {bool: flag, int: whole(-_LARGEST), float: number, str: text}


def _check_of(hint: Any) -> Check:
    if typing.get_origin(hint) is Literal:
        return choice(typing.get_args(hint))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        arms = [arm for arm in typing.get_args(hint) if arm is not type(None)]
        inner = _check_of(arms[0]) if len(arms) == 1 else _either(arms)
        return maybe(inner) if type(None) in typing.get_args(hint) else inner
    return _PLAIN[hint]


def _either(arms: list[Any]) -> Check:
    """A value of one of these plain types."""

    def check(value: Any, field: str) -> None:
        if isinstance(value, bool) or not isinstance(value, tuple(arms)):
            names = " or ".join({int: "a whole number", str: "a string"}[arm] for arm in arms)
            raise _wrong(value, field, names)

    return check


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return isinstance(value, float) or abs(value) <= _LARGEST


def _inside(field: str, name: str) -> str:
    return f"{field}.{name}" if field else name


def _wrong(value: Any, field: str, expected: str) -> RecordError:
    where = f"field {field}" if field else "the file"
    return RecordError(f"{where} must be {expected}, got {reprlib.repr(value)}")
