"""Hooks into a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fastgan.engine.config import TrainResult

if TYPE_CHECKING:
    from fastgan.engine.trainer import Trainer


class Callback:
    """What is called while a run goes on; override what you need.

    In a run of several processes every one of them calls its own callbacks:
    ``trainer.ranks.is_first`` tells which of them may write.
    """

    def on_step(self, trainer: Trainer) -> None:
        """After every step; ``trainer.step`` are made."""

    def on_log(self, trainer: Trainer, values: dict[str, float]) -> None:
        """At every log point, before the values are written: entries may be added."""

    def score(self, trainer: Trainer) -> float | None:
        """Before every checkpoint: how good it is, larger is better, for ``keep_best``."""
        return None

    def on_checkpoint(self, trainer: Trainer, path: Path) -> None:
        """After a checkpoint is written to ``path``."""

    def on_end(self, trainer: Trainer, result: TrainResult) -> None:
        """When the run has ended or was stopped, after its last checkpoint."""
