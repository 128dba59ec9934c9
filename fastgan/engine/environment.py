"""What a run was made with and on."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

import torch

from fastgan.engine.train_state import TrainState


def environment(trainer: TrainState) -> dict[str, Any]:
    """Versions, device, threads and processes, as JSON."""
    device = trainer.device
    cpu = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores"
    return {
        "fastgan": _version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
        "threads": torch.get_num_threads(),
        "processes": trainer.group.size,
    }


def _version() -> str:
    try:
        return metadata.version("fastgan")
    except metadata.PackageNotFoundError:  # a checkout on the path runs, too
        return "not installed"
