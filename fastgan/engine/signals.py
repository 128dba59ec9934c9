"""Stopping between two steps instead of in the middle of one."""

from __future__ import annotations

import signal
import threading
import time
from types import TracebackType
from typing import Any


class StopOnSignal:
    """Inside, SIGINT and SIGTERM ask for a stop instead of ending the process.

    ``received`` is the signal's number once one has come. A second signal does what it would have
    done outside, unless it comes within ``same_request`` seconds of the first. In a thread other
    than the main one, where Python allows no handlers, nothing changes.
    """

    def __init__(self, same_request: float = 0.0) -> None:
        self.received: int | None = None
        self._same_request = same_request
        self._received_at = 0.0
        self._outer: dict[int, Any] = {}

    def __enter__(self) -> StopOnSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._outer[number] = signal.signal(number, self._receive)
        return self

    def _receive(self, number: int, _frame: object) -> None:
        if self.received is None:
            self.received, self._received_at = number, time.monotonic()
            if not self._same_request:
                self._restore()
        elif time.monotonic() - self._received_at > self._same_request:
            self._restore()
            signal.raise_signal(number)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._outer.items():
            signal.signal(number, handler)
