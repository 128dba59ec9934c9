"""Clocks: the host's for a CPU, events for a GPU, and what a GPU's own clocks did meanwhile."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable

import torch

from bench.paired import Clock, host_clock

_QUERY = "clocks.sm,clocks.mem,temperature.gpu,power.draw"
# Drivers before 535 know the reasons by the second name.
_REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
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


def captured(run: Callable[[], object]) -> Callable[[], object]:
    """A CUDA graph of a call on fixed inputs, as a function that replays it."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # warm-up
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = run()

    def replay() -> object:
        graph.replay()
        return kept

    return replay


def gpu_state() -> dict[str, object]:
    """Clocks, temperature, power and whether the GPU is being slowed down; empty without
    nvidia-smi, so that its absence shows."""
    if shutil.which("nvidia-smi") is None:
        return {}
    for reasons in _REASONS:
        query = f"--query-gpu={_QUERY},{reasons}"
        command = ["nvidia-smi", query, "--format=csv,noheader,nounits", "-i", "0"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return parse_state(done.stdout)
    return {}


def parse_state(line: str) -> dict[str, object]:
    """A line of nvidia-smi's as a record."""
    fields = [field.strip() for field in line.strip().split(",")]
    if len(fields) != 5:
        return {}
    sm, memory, celsius, watts, reasons = fields
    bits = int(reasons, 16) if reasons.startswith("0x") else 0
    return {
        "sm_mhz": sm,
        "memory_mhz": memory,
        "celsius": celsius,
        "watts": watts,
        "reasons": reasons,
        "throttled": bool(bits & _THROTTLING),
    }
