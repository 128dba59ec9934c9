"""SIGTERM ends a command as Ctrl-C does: by an exception, so that it can say so and clean up."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Terminated(BaseException):
    """SIGTERM has come. Like KeyboardInterrupt no Exception, which code may catch and go on."""


@contextmanager
def heeding_sigterm() -> Iterator[None]:
    """Inside, SIGTERM raises Terminated in the main thread.

    Nothing changes where another handler stands, in other threads, and under torchrun: it ends its
    workers by SIGTERM, also those that wait for each other outside Python, where no handler runs.
    """
    free = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    main = threading.current_thread() is threading.main_thread()
    if not (free and main) or "RANK" in os.environ:
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(_number: int, _frame: object) -> None:
    raise Terminated
