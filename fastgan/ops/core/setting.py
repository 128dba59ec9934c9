"""Choices that belong to the process, like `torch.backends`."""

from __future__ import annotations

from typing import ClassVar

from fastgan.system import renamed


class Setting:
    """Chooses `name` at once, and until the `with` block ends if in one; ValueError for another.

    A subclass says which `names` there are beside "auto", and holds the one chosen as `value`.
    renamed: those of the last release, by what they were; they warn.
    """

    names: ClassVar[tuple[str, ...]]
    renamed: ClassVar[dict[str, str]] = {}
    value: ClassVar[str] = "auto"
    # Of all settings: differs where any of their values does, or what they were decided by.
    state: ClassVar[int] = 0
    _states: ClassVar[dict[tuple[object, ...], int]] = {}  # the number of each that there was
    _renewed: ClassVar[int] = 0

    def __init__(self, name: str) -> None:
        kind, known = type(self), ("auto", *self.names)
        name = kind.current(name)
        if name not in known:
            raise ValueError(f"{kind.__name__}: {name!r} is not one of {', '.join(known)}")
        self.previous = kind.value
        kind._set(name)

    @classmethod
    def current(cls, name: str) -> str:
        """What a name of the last release is called now; warns the caller's caller."""
        if name not in cls.renamed:
            return name
        renamed(f"{cls.__name__}: {name!r}", repr(cls.renamed[name]), stacklevel=4)
        return cls.renamed[name]

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        type(self)._set(self.previous)

    @classmethod
    def _set(cls, value: str) -> None:
        if value != cls.value:
            cls.value = value
            cls._note()

    @staticmethod
    def _note() -> None:
        values = ((kind.__name__, kind.value) for kind in Setting.__subclasses__())
        states, now = Setting._states, (Setting._renewed, *values)
        Setting.state = states.setdefault(now, len(states) + 1)

    @staticmethod
    def renew() -> None:
        """Has everything decided again that is kept by `state`."""
        Setting._renewed += 1
        Setting._note()
