"""Timing of calls: on a GPU by replays of CUDA graphs, here of one that is not there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from devices import GPU
from fake_cuda import FakeCuda, Graph

from fastgan.ops.conv import timing
from fastgan.ops.conv.timing import Times

CUDA = torch.device("cuda", 0)


class TimedCuda(FakeCuda):
    """A GPU whose graphs take times of their own, in the order in which they are made; events say
    when they came to pass on the device.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, graphs: list[Times]) -> None:
        super().__init__(monkeypatch)
        self.now, self.flushed, self.waited, gpu = 0.0, False, 0, self
        self.log: list[str] = []

        class TimedGraph(Graph):
            def __init__(self) -> None:
                super().__init__(gpu)
                gpu.graphs.append(self)
                self.times = graphs[len(gpu.graphs) - 1]

            def replay(self) -> None:
                gpu.now += self.times.cold if gpu.flushed else self.times.warm
                gpu.flushed = False
                gpu.log.append("replay")

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                self.at = gpu.now

            def elapsed_time(self, later: Event) -> float:
                assert gpu.waited, "before the GPU has come to it an event has no time"
                return (later.at - self.at) / 1e3

        class Flusher:
            def zero_(self) -> None:
                gpu.now += 1000.0  # which no time may hold
                gpu.flushed = True
                gpu.log.append("flush")

        monkeypatch.setattr(torch.cuda, "CUDAGraph", TimedGraph)
        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "synchronize", self.synchronize)
        monkeypatch.setattr(timing, "_flusher", lambda device: Flusher())

    def synchronize(self) -> None:
        self.waited += 1
        self.log.append("wait")


def test_a_gpus_times_are_those_of_its_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {"fused": Times(30.0, 10.0), "recompute": Times(24.0, 20.0)}
    gpu, made = TimedCuda(monkeypatch, list(taken.values())), dict.fromkeys(taken, 0)

    def call(name: str) -> Callable[[], None]:
        def run() -> None:
            made[name] += 1
            assert not torch.is_autocast_cache_enabled()

        return run

    with torch.autocast("cpu", torch.bfloat16):
        assert timing.measure({name: call(name) for name in taken}, CUDA, 5) == taken
        assert torch.is_autocast_cache_enabled()
    # The host calls to warm up and to capture; what is timed are replays, in turn, and the host
    # waits when all are under way.
    assert made == dict.fromkeys(taken, timing.WARM_UP + 1)
    rounds = 5 + timing.WARM_UP
    assert gpu.log == ["flush", "replay", "replay"] * 2 * rounds + ["wait"]
    assert [graph.resets for graph in gpu.graphs] == [1, 1]


def test_what_cannot_be_captured_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, calls = TimedCuda(monkeypatch, [Times(1.0, 1.0)]), 0

    def call() -> None:
        nonlocal calls
        calls += 1
        if calls > timing.WARM_UP:
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match=r"^fused: cannot be captured as a CUDA graph: op"):
        timing.measure({"fused": call}, CUDA, 1)
    assert gpu.current_stream() is gpu.default[0]
    assert torch.is_autocast_cache_enabled()


def test_a_cpus_times_are_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 10**6, 3))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(now) * 1e-6)
    calls: dict[str, Any] = {"a": lambda: None, "b": lambda: None}
    assert timing.measure(calls, torch.device("cpu"), 2) == dict.fromkeys("ab", Times(3.0, 3.0))


def test_in_words() -> None:
    times = {"recompute": Times(24.0, 20.0), "fused": Times(30.0, 10.4), "host": Times(3.0, 3.0)}
    assert timing.ranked(times) == (
        "host 3 µs, fused 20 µs (cold 30, warm 10), recompute 22 µs (cold 24, warm 20)"
    )


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=GPU)])
def test_on_a_gpu(device: str) -> None:
    """A copy of 16 MB takes its time by memory, cold, and half of a copy of twice the size."""
    sizes = {"small": 1 << 22, "large": 1 << 23}
    sources = {name: torch.randn(size, device=device) for name, size in sizes.items()}
    outputs = {name: torch.empty_like(t) for name, t in sources.items()}
    calls = {name: lambda n=name: outputs[n].copy_(sources[n]) for name in sizes}
    found = timing.measure(calls, CUDA, 20)
    assert all(t.warm <= 1.1 * t.cold for t in found.values())
    assert 1.3 < found["large"].cold / found["small"].cold < 3.0
