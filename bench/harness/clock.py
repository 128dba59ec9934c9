"""Clocks: the host's for a CPU, events for a GPU, and what a GPU's own clocks did meanwhile."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable

import torch

from bench.paired import Clock, host_clock

_QUERY = "clocks.sm,clocks.mem,temperature.gpu,power.draw,clocks_throttle_reasons.active"
_NAMES = ("sm_mhz", "memory_mhz", "celsius", "watts", "reasons")
# nvidia-smi's bits that slow a GPU down: software and hardware power caps and thermal limits.
_THROTTLING = 0x4 | 0x8 | 0x20 | 0x40 | 0x80


def clock_of(device: str) -> Clock:
    return event_clock if device == "cuda" else host_clock


def event_clock(run: Callable[[], object]) -> float:
    """Seconds between two CUDA events around a call, the device idle before."""
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    run()
    stop.record()
    stop.synchronize()
    return float(start.elapsed_time(stop)) / 1e3


def gpu_state() -> dict[str, object]:
    """Clocks, temperature, power and whether the GPU is being slowed down; empty without
    nvidia-smi, so that its absence shows."""
    if shutil.which("nvidia-smi") is None:
        return {}
    command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits", "-i", "0"]
    return parse_state(subprocess.run(command, capture_output=True, text=True, check=False).stdout)


def parse_state(line: str) -> dict[str, object]:
    """A line of nvidia-smi's as a record; empty where it is none."""
    fields = [field.strip() for field in line.split(",")]
    if len(fields) != len(_NAMES):
        return {}
    bits = int(fields[-1], 16) if fields[-1].startswith("0x") else 0
    return {**dict(zip(_NAMES, fields, strict=True)), "throttled": bool(bits & _THROTTLING)}
