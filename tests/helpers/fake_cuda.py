"""A stand-in for the streams and graphs of two GPUs, where there is none: tensors stay on the CPU.

A graph replays nothing. What is kept is which device, stream and graph each call was for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch


class Stream:
    def __init__(self, gpu: FakeCuda, device: int) -> None:
        self.gpu, self.device = gpu, device

    def wait_stream(self, other: Stream) -> None:
        self.gpu.waits.append((self, other))


class Graph:
    def __init__(self, gpu: FakeCuda) -> None:
        self.gpu, self.resets = gpu, 0

    def register_generator_state(self, generator: torch.Generator) -> None:
        pass

    def replay(self) -> None:
        self.gpu.replays.append(self.gpu.current_stream())

    def reset(self) -> None:
        self.resets += 1


class FakeCuda:
    """In place of `torch.cuda` from here on; device 0 is current."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.default = [Stream(self, 0), Stream(self, 1)]
        self.streams = list(self.default)
        self.index = 0
        self.waits: list[tuple[Stream, Stream]] = []
        self.replays: list[Stream] = []
        self.graphs: list[Graph] = []
        self.end_fails: Exception | None = None
        """What ends a capture, as torch's error does for one that has become invalid."""
        for name in ("current_stream", "set_stream", "set_device", "device", "stream", "graph"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(self, device.index))
        monkeypatch.setattr(torch.cuda, "CUDAGraph", self._new_graph)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: self.index)

    def _new_graph(self) -> Graph:
        self.graphs.append(Graph(self))
        return self.graphs[-1]

    def current_stream(self, device: torch.device | None = None) -> Stream:
        return self.streams[self.index if device is None else device.index]

    def set_stream(self, stream: Stream) -> None:
        self.index = stream.device
        self.streams[stream.device] = stream

    def set_device(self, device: torch.device) -> None:
        self.index = device.index

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        before, self.index = self.index, device.index
        try:
            yield
        finally:
            self.index = before

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        outer, inner = self.current_stream(), self.streams[stream.device]
        self.set_stream(stream)
        try:
            yield
        finally:
            self.streams[stream.device] = inner
            self.set_stream(outer)

    @contextmanager
    def graph(self, graph: Graph, *, stream: Stream, **_: Any) -> Iterator[None]:
        """As torch's: an error at the end of the capture leaves the side stream current."""
        outer = self.current_stream()
        self.set_stream(stream)
        try:
            yield
        finally:
            if self.end_fails is not None:
                raise self.end_fails
            self.set_stream(outer)
