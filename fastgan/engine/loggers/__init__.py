"""Where a run's numbers, pictures and files go beside its own folder: one service a file.

>>> Trainer(..., callbacks=[WandB(project="digits", mode="offline"), MLflow()])

A :class:`Logger` of your own overrides what it needs of five methods.
"""

from __future__ import annotations

from fastgan.checks import unknown
from fastgan.engine.config import TrainConfig
from fastgan.engine.loggers.base import Logger, Loggers
from fastgan.engine.loggers.mlflow import MLflow
from fastgan.engine.loggers.tensorboard import TensorBoard
from fastgan.engine.loggers.trackio import Trackio
from fastgan.engine.loggers.wandb import WandB

__all__ = [
    "Logger",
    "Loggers",
    "MLflow",
    "TensorBoard",
    "Trackio",
    "WandB",
    "get_logger",
    "named_loggers",
]

_LOGGERS: dict[str, type[Logger]] = {
    "mlflow": MLflow,
    "tensorboard": TensorBoard,
    "trackio": Trackio,
    "wandb": WandB,
}


def get_logger(name: str) -> Logger:
    """The logger called ``name``, with its defaults.

    Raises:
        ValueError: there is none of that name (suggestions are given).
        ModuleNotFoundError: its package is not installed; the message names the extra.
    """
    if name not in _LOGGERS:
        raise unknown("logger", name, _LOGGERS)
    return _LOGGERS[name]()


def named_loggers(config: TrainConfig) -> list[Logger]:
    """Those that a configuration names; errors as of :func:`get_logger`."""
    names = [name.strip() for name in config.loggers.split(",") if name.strip()]
    names += ["tensorboard"] if config.tensorboard else []
    return [get_logger(name) for name in dict.fromkeys(names)]
