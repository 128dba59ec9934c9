"""Where the time of a call goes: by part of the work, from torch.profiler.

On a CPU the operators' own time on the calling thread is summed, and what is left of the wall's is
Python. On a GPU the kernels' time is summed, and what is left is the device waiting.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import torch

# In this order; the first that matches counts. ATen's operators, this package's, and kernels.
PARTS = {
    "optimizer": r"adam|optimizer|multi_tensor",
    "norm and activation": (
        r"norm|bias_act|_eager|relu|tanh|threshold|sigmoid|bn_fw|bn_bw|running_stats|clamp_min"
    ),
    "convolution": r"conv|aten::(add)?b?mm|gemm|cudnn|cutlass|xmma|wgrad|dgrad|implicit|winograd",
    "compiled regions": r"torch-compiled|compiledfunction|triton_",
    "copies and casts": r"copy|_to$|memcpy|cast|contiguous|cat|aten::to",
}
OTHER, REST = "other operators", {"cpu": "Python between", "cuda": "device waiting"}


def part_of(name: str) -> str:
    """The part of the work that an operator or kernel does, by its name."""
    return next((p for p, known in PARTS.items() if re.search(known, name.lower())), OTHER)


def breakdown(calls: Callable[[int], Callable[[], object]], device: str, n: int = 5) -> Any:
    """Seconds of a call by part, in the order of PARTS, the mean over `n` calls.

    calls(turn)() is a call, as of `measure`. The profiler's own cost is in the numbers.
    """
    for turn in range(2):
        calls(turn)()
    kind = torch.profiler.ProfilerActivity
    activities = [kind.CPU, kind.CUDA] if device == "cuda" else [kind.CPU]
    _wait(device)
    with torch.profiler.profile(activities=activities) as profiler:
        started = time.perf_counter()
        for turn in range(n):
            calls(turn)()
        _wait(device)
        wall = time.perf_counter() - started
    seconds = dict.fromkeys([*PARTS, OTHER, REST[device]], 0.0)
    for event in profiler.key_averages():
        # An operator on the host has the time of its kernels, too: only the kernels' own counts.
        on_device = event.device_type == torch.autograd.DeviceType.CUDA
        if on_device != (device == "cuda"):
            continue
        own = event.self_device_time_total if on_device else event.self_cpu_time_total
        seconds[part_of(event.key)] += own / 1e6 / n
    seconds[REST[device]] = max(0.0, wall / n - sum(seconds.values()))
    return seconds


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
