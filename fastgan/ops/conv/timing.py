"""How long calls take on a device.

On a GPU each call is captured as a CUDA graph, whose replays are timed by events: what counts is
the kernels' time, not that of the host that launches them. A replay that follows a pass over more
memory than the caches hold finds none of its data there (cold), one that follows itself finds what
fits (warm). Within a training step the tensor of the layer before is warm and those that were saved
for backward are cold, so a choice goes by the mean.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

Calls = Mapping[str, Callable[[], object]]
WARM_UP = 3  # calls before a capture, and rounds before the first that counts


class Times(NamedTuple):
    """Microseconds of a call, the median of rounds; on a CPU both are the same."""

    cold: float
    warm: float

    @property
    def mean(self) -> float:
        return round((self.cold + self.warm) / 2, 2)


def ranked(times: Mapping[str, Times]) -> str:
    """Names and their times in words, the fastest first."""
    found = []
    for name in sorted(times, key=lambda name: times[name].mean):
        cold, warm = times[name]
        both = "" if cold == warm else f" (cold {cold:.0f}, warm {warm:.0f})"
        found.append(f"{name} {times[name].mean:.0f} µs{both}")
    return ", ".join(found)


def measure(calls: Calls, device: torch.device, rounds: int) -> dict[str, Times]:
    """The times of each call, over rounds in which each runs once.

    RuntimeError where a call cannot be captured, as one cannot that waits for the GPU.
    """
    if device.type != "cuda":
        return _by_the_host(calls, rounds)
    with torch.cuda.device(device), _without_autocast_cache():
        graphs = {name: captured(name, call, device) for name, call in calls.items()}
        try:
            return _by_events(graphs, _flusher(device), rounds)
        finally:
            for graph in graphs.values():
                graph.reset()


def _by_the_host(calls: Calls, rounds: int) -> dict[str, Times]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(rounds + WARM_UP):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if i >= WARM_UP:
                times[name].append(time.perf_counter() - start)
    found = {name: round(median(seconds) * 1e6, 2) for name, seconds in times.items()}
    return {name: Times(t, t) for name, t in found.items()}


def captured(name: str, call: Callable[[], object], device: torch.device) -> torch.cuda.CUDAGraph:
    """A call as a CUDA graph; RuntimeError where it cannot be one."""
    current, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
    side = torch.cuda.Stream(device)
    side.wait_stream(current)
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            call()
    current.wait_stream(side)
    try:
        with torch.cuda.graph(graph, stream=side):
            call()
    except RuntimeError as error:
        torch.cuda.set_stream(current)
        raise RuntimeError(f"{name}: cannot be captured as a CUDA graph: {error}") from error
    return graph


def _by_events(
    graphs: dict[str, torch.cuda.CUDAGraph], flush: Tensor, rounds: int
) -> dict[str, Times]:
    """Nothing is waited for within the rounds: while the GPU writes `flush` the host is ahead of
    it, so that no gap of the host's stands between two events.
    """
    marks: dict[str, list[list[torch.cuda.Event]]] = {name: [] for name in graphs}
    for _ in range(rounds + WARM_UP):
        for name, graph in graphs.items():
            events = [torch.cuda.Event(enable_timing=True) for _ in range(3)]
            flush.zero_()
            events[0].record()
            for event in events[1:]:
                graph.replay()
                event.record()
            marks[name].append(events)
    torch.cuda.synchronize()
    return {
        name: Times(
            *(
                round(median(e[i].elapsed_time(e[i + 1]) for e in counted) * 1e3, 2)
                for i in range(2)
            )
        )
        for name, counted in ((name, events[WARM_UP:]) for name, events in marks.items())
    }


def _flusher(device: torch.device) -> Tensor:
    """Memory of four times the size of the last cache."""
    cache = int(torch.cuda.get_device_properties(device).L2_cache_size)
    return torch.empty(4 * cache, dtype=torch.uint8, device=device)


@contextmanager
def _without_autocast_cache() -> Iterator[None]:
    """A graph must not read a cast weight that only the cache of an autocast region holds."""
    before = torch.is_autocast_cache_enabled()
    torch.clear_autocast_cache()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)
