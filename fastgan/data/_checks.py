"""Argument checks shared by the data sources."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def check_int(name: str, value: object, minimum: int, maximum: int | None = None) -> int:
    """Return `value` if it is an int of at least `minimum` and at most `maximum`.

    Raises:
        TypeError: not an int (bool counts as a mistake, not as a number).
        ValueError: too small or too large.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {value!r} of type {type(value).__name__}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    if maximum is not None and value > maximum:
        raise ValueError(f"{name} must be at most {maximum}, got {value}")
    return value


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise ValueError, with the nearest spelling, if `value` is not one of `choices`."""
    known = list(choices)
    if value in known:
        return
    raise ValueError(
        f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}"
        f"{did_you_mean(value, known)}"
    )


def did_you_mean(value: object, known: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)`, or nothing when no known name is near `value`."""
    near = difflib.get_close_matches(str(value).lower(), list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
