"""MLflow."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastgan.engine.loggers.base import Facts, Logger


class MLflow(Logger):
    """A run of MLflow: the configuration as its parameters, pictures and checkpoints as artifacts.

    Args:
        experiment: its name; made where there is none.
        tracking_uri: a server, or a folder (``file:mlruns``, which MLflow 3 takes with
            ``MLFLOW_ALLOW_FILE_STORE=true``); by default ``MLFLOW_TRACKING_URI``.
        checkpoints: send every checkpoint.

    Raises:
        ModuleNotFoundError: MLflow is not installed.
    """

    def __init__(
        self,
        experiment: str = "fastgan",
        *,
        tracking_uri: str | None = None,
        checkpoints: bool = False,
    ) -> None:
        try:
            from mlflow.entities import Metric, Param, RunStatus
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise ModuleNotFoundError(
                "MLflow is not installed: pip install 'fastgan[mlflow]'"
            ) from error
        self.experiment, self.tracking_uri, self.checkpoints = experiment, tracking_uri, checkpoints
        self._client_of: Any = MlflowClient
        self._kinds: Any = (Metric, Param, RunStatus)
        self._run: str | None = None

    def start(self, out: Path, facts: Facts, step: int) -> None:
        if self._run is not None:
            return  # after a rollback: its steps come again
        self._client = self._client_of(self.tracking_uri)
        found = self._client.get_experiment_by_name(self.experiment)
        where = found.experiment_id if found else self._client.create_experiment(self.experiment)
        self._run = self._client.create_run(where, run_name=out.name).info.run_id
        param = self._kinds[1]
        config = [param(name, str(value)) for name, value in facts["config"].items()]
        self._client.log_batch(self._run, params=config)
        self._client.log_dict(self._run, dict(facts), "run.json")

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        metric, now = self._kinds[0], int(1000 * time.time())
        entries = [metric(name, float(value), now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=entries)

    def images(self, step: int, name: str, picture: np.ndarray) -> None:
        self._client.log_image(self._run, picture, f"{name}/step-{step:08d}.png")

    def artifact(self, path: Path) -> None:
        if self.checkpoints:
            self._client.log_artifacts(self._run, str(path), f"checkpoints/{path.name}")

    def close(self) -> None:
        if self._run is not None:
            self._client.set_terminated(
                self._run, self._kinds[2].to_string(self._kinds[2].FINISHED)
            )
            self._run = None
