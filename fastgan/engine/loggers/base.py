"""What every logger is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fastgan.engine.callbacks import Callback
from fastgan.system import first_line

Facts = Mapping[str, Any]


class Logger(Callback):
    """Sends a run's numbers, pictures and files somewhere: a callback with five methods more.

    Of several processes the first one's logger is called. An error of a method is a warning, once;
    the run goes on. What is missing to make one is an error where it is made.
    """

    def start(self, out: Path, facts: Facts, step: int) -> None:
        """The run in the folder ``out`` begins at ``step``; after a rollback it does so again.

        ``facts`` is JSON-ready: ``config``, ``data``, ``parts`` and how the models are built.
        """

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """At every log point; a value may be infinite or no number."""

    def images(self, step: int, name: str, picture: np.ndarray) -> None:
        """At every grid: uint8 [H, W, 3], called ``samples`` or ``reconstructions``."""

    def artifact(self, path: Path) -> None:
        """After every checkpoint: its folder."""

    def close(self) -> None:
        """The run has ended, whatever has ended it."""


class Loggers:
    """Several loggers as one, of which none can end a run."""

    def __init__(self, loggers: Sequence[Logger], note: Callable[[str], None]) -> None:
        self._loggers = loggers
        self._note = note
        self._failed: set[int] = set()

    def start(self, out: Path, facts: Facts, step: int) -> None:
        self._each("start", out, facts, step)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._each("metrics", step, values)

    def picture(self, step: int, name: str, path: Path) -> None:
        """The picture at ``path``, if one stands there."""
        if self._loggers and path.exists():
            with Image.open(path) as file:
                self._each("images", step, name, np.asarray(file.convert("RGB")))

    def artifact(self, path: Path) -> None:
        self._each("artifact", path)

    def close(self) -> None:
        self._each("close")

    def _each(self, method: str, *arguments: Any) -> None:
        for logger in self._loggers:
            try:
                getattr(logger, method)(*arguments)
            except Exception as error:
                if id(logger) in self._failed:
                    continue
                self._failed.add(id(logger))
                self._note(
                    f"warning: {type(logger).__name__}.{method} failed, and the run goes on: "
                    f"{type(error).__name__}: {first_line(error)}"
                )
