"""How much memory a device has, and how large a set may be to be held in it."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from fastgan.system import whole_number

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
# A quarter: networks, activations and the copies that loading makes want the rest.
_SHARE = 4


def device_memory(device: torch.device) -> int:
    """Bytes that a device has in all; of the CPU, what the machine or its container has."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(installed, int(_CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # no control groups, or "max"
        return installed


def resident_bytes(device: torch.device) -> int:
    """The largest set that is held in memory where the caller leaves it open: a quarter of the
    device's memory and of this process's share of the machine's, through which it comes.
    """
    processes = whole_number("LOCAL_WORLD_SIZE", default=1, minimum=1)
    host = device_memory(torch.device("cpu")) // processes
    return min(host, device_memory(device)) // _SHARE
