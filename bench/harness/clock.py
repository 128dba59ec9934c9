"""Clocks: the host's for a CPU, events for a GPU."""

from __future__ import annotations

from collections.abc import Callable

import torch

from bench.paired import Clock, host_clock


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
