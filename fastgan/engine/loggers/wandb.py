"""Weights & Biases."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastgan.engine.loggers.base import Facts, Logger


class WandB(Logger):
    """A run of Weights & Biases; ``WANDB_MODE=offline`` or ``mode="offline"`` needs no network.

    A run that is resumed is a new one there, whose steps go on, unless ``id`` and ``resume`` say
    otherwise.

    Args:
        project: where it goes.
        checkpoints: send every checkpoint as a version of an artifact.
        **options: of ``wandb.init``, such as ``name``, ``entity``, ``mode``, ``id``.

    Raises:
        ModuleNotFoundError: wandb is not installed.
    """

    def __init__(
        self, project: str = "fastgan", *, checkpoints: bool = False, **options: Any
    ) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ModuleNotFoundError(
                "Weights & Biases is not installed: pip install 'fastgan[wandb]'"
            ) from error
        self.project, self.checkpoints = project, checkpoints
        self._options = options
        self._wandb: Any = wandb
        self._run: Any = None

    def start(self, out: Path, facts: Facts, step: int) -> None:
        if self._run is not None:
            return  # after a rollback: its steps come again, under the same axis
        options = {"name": out.name, "config": dict(facts), **self._options}
        self._run = self._wandb.init(project=self.project, **options)
        # Not wandb's own step, which cannot go back.
        self._run.define_metric("*", step_metric="step")

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def images(self, step: int, name: str, picture: np.ndarray) -> None:
        self._run.log({"step": step, name: self._wandb.Image(picture)})

    def artifact(self, path: Path) -> None:
        if self.checkpoints:
            name = re.sub(r"[^\w.-]", "-", f"{self._run.name}-checkpoint")
            made = self._wandb.Artifact(name, type="checkpoint")
            made.add_dir(str(path))
            self._run.log_artifact(made, aliases=[path.name])

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()
            self._run = None
