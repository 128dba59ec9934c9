"""Choices that belong to the process, like `torch.backends`."""

from __future__ import annotations

from typing import ClassVar


class Setting:
    """Chooses `name` at once, and until the `with` block ends if in one; ValueError for another.

    A subclass says which `names` there are beside "auto", and holds the one chosen as `value`.
    """

    names: ClassVar[tuple[str, ...]]
    value: ClassVar[str] = "auto"

    def __init__(self, name: str) -> None:
        kind, known = type(self), ("auto", *self.names)
        if name not in known:
            raise ValueError(f"{kind.__name__}: {name!r} is not one of {', '.join(known)}")
        self.previous = kind.value
        kind.value = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        type(self).value = self.previous
