"""Hooks into a run."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from fastgan.engine.config import TrainResult
from fastgan.engine.train_state import TrainState


class Callback:
    """What is called while a run goes on; override what you need.

    In a run of several processes every one of them calls its own callbacks:
    ``trainer.group.is_first`` tells which of them may write.
    """

    def on_step(self, trainer: TrainState) -> None:
        """After every step; ``trainer.step`` are made."""

    def on_log(self, trainer: TrainState, values: dict[str, float]) -> None:
        """At every log point, before the values are written: entries may be added."""

    def draw(self, trainer: TrainState, images: Tensor, stem: Path) -> Path | None:
        """At a sample point, in the first process: write ``images``, samples ``[N, ...]`` in
        [-1, 1], to ``stem`` with a suffix, in place of the grid, and return the path; None leaves
        it to the next callback, and then to the grid.
        """
        return None

    def score(self, trainer: TrainState) -> float | None:
        """Before every checkpoint: how good it is, larger is better, for ``keep_best``."""
        return None

    def on_checkpoint(self, trainer: TrainState, path: Path) -> None:
        """Once a checkpoint is written to ``path``, which may be some steps after its own."""

    def on_end(self, trainer: TrainState, result: TrainResult) -> None:
        """When the run has ended or was stopped, after its last checkpoint."""
