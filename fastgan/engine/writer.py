"""Writing beside the steps: a thread makes a run's files while the next steps are made."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

Job = Callable[[], Path | None]


class Writer:
    """Does jobs one after the other in a thread of its own.

    A job writes copies: what it is given must not change any more. Those of three jobs are held at
    most; a fourth waits for the first to be done, as it must where a disk is slower than the
    intervals. An error of a job is raised in the step's thread, by the next call of any method.
    """

    AHEAD = 3

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "fastgan-writer")
        self._jobs: deque[Future[Path | None]] = deque()
        self._made: list[Path] = []

    def submit(self, job: Job) -> None:
        """Have ``job`` done; it returns the path of a checkpoint that it has made, or None."""
        while len(self._jobs) >= self.AHEAD:
            self._take()
        self._jobs.append(self._thread.submit(job))

    @property
    def has_news(self) -> bool:
        """Whether anything was submitted that `made` has not told of."""
        return bool(self._jobs or self._made)

    def made(self, *, wait: bool = False) -> list[Path]:
        """The checkpoints that were made since the last call; ``wait`` lets all jobs end first."""
        while self._jobs and (wait or self._jobs[0].done()):
            self._take()
        made, self._made = self._made, []
        return made

    def drain(self) -> Exception | None:
        """Let all jobs end; the first error of those that had not been looked at."""
        first: Exception | None = None
        while self._jobs:
            try:
                self._take()
            except Exception as error:
                first = first or error
        return first

    def close(self) -> None:
        """Let the thread end, after the jobs that it has."""
        with suppress(RuntimeError):  # the interpreter is ending, and joins it
            self._thread.shutdown(wait=True)

    def _take(self) -> None:
        path = self._jobs.popleft().result()
        if path is not None:
            self._made.append(path)
