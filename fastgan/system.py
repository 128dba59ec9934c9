"""What every room may use: environment variables, JSON and files, read and written whole."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON by its standard (RFC 8259), which has no NaN and no infinity: they become null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return value


def whole_number(variable: str, default: int | None = None, minimum: int = 0) -> int:
    """The number that an environment variable holds; ``default`` where it is not set.

    Raises:
        ValueError: it is not set and there is no default, is no whole number, or is too small. The
            message names the variable.
    """
    text = os.environ.get(variable)
    if text is None:
        if default is None:
            raise ValueError(f"the environment variable {variable} is not set")
        return default
    # int() would also take "1_0", and digits of other scripts.
    digits = text.strip().removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError(
            f"the environment variable {variable} must be a whole number, got {text!r}"
        )
    value = int(text)
    if value < minimum:
        raise ValueError(
            f"the environment variable {variable} must be at least {minimum}, got {value}"
        )
    return value
