"""What the operating system gives: environment variables and files, taken and written whole."""

from __future__ import annotations

import os


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
