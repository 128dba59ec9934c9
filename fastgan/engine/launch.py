"""What torchrun (or a launcher like it) has told this process by environment variables."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from fastgan.system import whole_number

_LARGEST_PORT = 65535


@dataclass(frozen=True)
class Launch:
    """This process's place: ``rank`` of ``size`` in all."""

    rank: int
    size: int


def read_launch() -> Launch | None:
    """What the environment says, or None where no launcher has set anything.

    Everything that joining the group would wait for in vain is looked at here, before it is joined.

    Raises:
        ValueError: a variable is missing, no number, or contradicts another; the message names it.
    """
    if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
        return None
    for name, other in (("RANK", "WORLD_SIZE"), ("WORLD_SIZE", "RANK")):
        if name not in os.environ:
            raise ValueError(
                f"the environment variable {other} is set and {name} is not: a launcher such as "
                "torchrun sets both, and a single process needs neither"
            )
    size = whole_number("WORLD_SIZE", minimum=1)
    rank = _below("RANK", whole_number("RANK"), "WORLD_SIZE", size)
    local_size = whole_number("LOCAL_WORLD_SIZE", default=size, minimum=1)
    if local_size > size:
        raise ValueError(
            "the environment variable LOCAL_WORLD_SIZE must be at most WORLD_SIZE, got "
            f"LOCAL_WORLD_SIZE={local_size} and WORLD_SIZE={size}"
        )
    if "LOCAL_RANK" in os.environ:
        _below("LOCAL_RANK", whole_number("LOCAL_RANK"), "LOCAL_WORLD_SIZE", local_size)
    if size > 1:
        if not os.environ.get("MASTER_ADDR"):
            raise ValueError("the environment variable MASTER_ADDR is not set")
        port = whole_number("MASTER_PORT", minimum=1)
        if port > _LARGEST_PORT:
            raise ValueError(
                f"the environment variable MASTER_PORT must be at most {_LARGEST_PORT}, got {port}"
            )
    return Launch(rank, size)


def local_device() -> int:
    """The index of this process's GPU: its rank on this machine.

    Raises:
        ValueError: LOCAL_RANK is not set, no number, or beyond the GPUs that torch sees.
    """
    index, count = whole_number("LOCAL_RANK"), torch.cuda.device_count()
    if index >= count:
        raise ValueError(
            f"the environment variable LOCAL_RANK is {index}, and torch sees {count} CUDA devices "
            "(CUDA_VISIBLE_DEVICES hides others): start as many processes as there are devices"
        )
    return index


def _below(name: str, value: int, limit_name: str, limit: int) -> int:
    if value >= limit:
        raise ValueError(
            f"the environment variable {name} must lie below {limit_name}, got {name}={value} and "
            f"{limit_name}={limit}"
        )
    return value
