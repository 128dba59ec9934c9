"""Which device a run takes."""

from __future__ import annotations

import os

import torch

from fastgan.engine.launch import local_device


def take_device(name: str) -> torch.device:
    """What :func:`resolve_device` finds, as the current device of this process from here on.

    Streams, graphs, object collectives and kernels' launches are of the current device.
    """
    device = resolve_device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def resolve_device(name: str) -> torch.device:
    """``auto`` is a GPU where there is one, else the CPU; torchrun's processes take one GPU each.

    Without a number it is the current one, as in a process group of the user's own.

    Raises:
        ValueError: the name is not a device, or this machine or build of torch does not have it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be auto, cpu, cuda or cuda:<n>, got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:<n>, got {name!r}")
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", local_device())
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {name!r} is not there: torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA devices"
        )
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device
