"""Trackio."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastgan.engine.loggers.base import Facts, Logger


class Trackio(Logger):
    """A run of Trackio, which keeps it on this machine (``TRACKIO_DIR``) or in a Space.

    Args:
        project: where it goes.
        **options: of ``trackio.init``, such as ``name`` and ``space_id``.

    Raises:
        ModuleNotFoundError: trackio is not installed.
    """

    def __init__(self, project: str = "fastgan", **options: Any) -> None:
        try:
            import trackio
        except ImportError as error:
            raise ModuleNotFoundError(
                "Trackio is not installed: pip install 'fastgan[trackio]'"
            ) from error
        self.project = project
        self._options = options
        self._trackio: Any = trackio
        self._run: Any = None

    def start(self, out: Path, facts: Facts, step: int) -> None:
        if self._run is None:
            options = {"name": out.name, "config": dict(facts), **self._options}
            self._run = self._trackio.init(project=self.project, **options)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def images(self, step: int, name: str, picture: np.ndarray) -> None:
        self._run.log({name: self._trackio.Image(picture)}, step=step)

    def close(self) -> None:
        if self._run is not None:
            self._trackio.finish()
            self._run = None
