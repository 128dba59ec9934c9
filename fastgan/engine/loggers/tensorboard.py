"""TensorBoard's event files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastgan.engine.loggers.base import Facts, Logger


class TensorBoard(Logger):
    """Scalars, pictures and the configuration as event files in the run's ``tensorboard/``.

    Args:
        folder: another place for them.

    Raises:
        ModuleNotFoundError: TensorBoard is not installed.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ModuleNotFoundError(
                "TensorBoard is not installed: pip install 'fastgan[tensorboard]'"
            ) from error
        self.folder = folder
        self._kind: Any = SummaryWriter
        self._writer: Any = None

    def start(self, out: Path, facts: Facts, step: int) -> None:
        self.close()
        # Events of steps that are made again are not shown.
        again = step + 1 if step else None
        self._writer = self._kind(str(self.folder or out / "tensorboard"), purge_step=again)
        if not step:
            self._writer.add_text("run", f"```json\n{json.dumps(dict(facts), indent=1)}\n```")

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def images(self, step: int, name: str, picture: np.ndarray) -> None:
        self._writer.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
