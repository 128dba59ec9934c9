"""Updates of state that wait until a block ends, so that few launches make all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Queue(Generic[T]):
    """Updates of one kind. items: those that wait; None outside of `together`, where none may."""

    def __init__(self, update: Callable[[list[T]], None]) -> None:
        self.items: list[T] | None = None
        self._update = update
        _queues.append(self)

    def flush(self) -> None:
        """Makes the updates that wait."""
        if self.items:
            items, self.items[:] = list(self.items), []
            self._update(items)


_queues: list[Queue[Any]] = []


@contextmanager
def together() -> Iterator[None]:
    """Within, updates wait until the outermost block ends, be it by an error."""
    opened = [queue for queue in _queues if queue.items is None]
    for queue in opened:
        queue.items = []
    try:
        yield
    finally:
        for queue in opened:
            try:
                queue.flush()
            finally:
                queue.items = None
