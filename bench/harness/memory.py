"""What a call costs in memory: bytes kept for backward, and the peak while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


def saved_sizes(forward: Callable[[], object], apart: Iterable[Tensor] = ()) -> list[int]:
    """Bytes of each storage that autograd keeps for backward but those of the tensors `apart`, such
    as parameters. An input that is kept counts: without backward it could be freed.
    """
    known = {t.untyped_storage().data_ptr() for t in apart}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    alive = None
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        alive = forward()  # held until the count is done: a freed block's address may come again
    del alive
    return list(kept.values())


def peak_bytes(run: Callable[[], object], device: str) -> int:
    """The most that is allocated beyond what was there before, while `run` runs."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    profiler = torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    )
    with profiler:
        run()
    # The allocator's own events: a running sum of what was taken and given back.
    profiled: Any = profiler.profiler
    events = [e for e in profiled.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak
