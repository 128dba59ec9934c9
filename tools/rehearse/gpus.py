"""GPUs by name: their limits, and `torch.cuda` as it would be with one of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from tools.kernel_report.compare import SHARED

# Of every NVIDIA GPU from sm_80 on (CUDA programming guide, compute capabilities).
GRID = (2**31 - 1, 65535, 65535)
THREADS = 1024  # a block
REGISTERS = 65536  # a multiprocessor, given to warps in steps of 256


@dataclass(frozen=True)
class Gpu:
    """A model of GPU. shared: bytes of shared memory a block may have; memory: bytes."""

    name: str
    target: str
    multiprocessors: int
    memory: int

    @property
    def capability(self) -> tuple[int, int]:
        return divmod(int(self.target.removeprefix("sm_")), 10)

    @property
    def shared(self) -> int:
        return SHARED[self.target]


GPUS = {
    gpu.target: gpu
    for gpu in (
        Gpu("NVIDIA A100-SXM4-80GB", "sm_80", 108, 80 << 30),
        Gpu("NVIDIA H200", "sm_90", 132, 139 << 30),
        Gpu("NVIDIA B200", "sm_100", 148, 178 << 30),
        Gpu("NVIDIA GeForce RTX 5090", "sm_120", 170, 31 << 30),
    )
}


class _Stream:
    cuda_stream = 0

    def wait_stream(self, other: object) -> None:
        pass


class _Graph:
    def register_generator_state(self, generator: object) -> None:
        pass

    def replay(self) -> None:
        pass

    def reset(self) -> None:
        pass


class Cuda:
    """In place of `torch.cuda`. `capturing`: whether a graph is being recorded."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu, self.capturing = gpu, False

    @contextmanager
    def graph(self, graph: _Graph, **_: Any) -> Iterator[None]:
        self.capturing = True
        try:
            yield
        finally:
            self.capturing = False

    @contextmanager
    def nothing(self, *_: Any) -> Iterator[None]:
        yield

    def functions(self) -> dict[str, Any]:
        """By the names that they have in `torch.cuda`."""
        gpu, stream = self.gpu, _Stream()
        properties = SimpleNamespace(
            name=gpu.name, major=gpu.capability[0], minor=gpu.capability[1],
            total_memory=gpu.memory, multi_processor_count=gpu.multiprocessors,
        )  # fmt: skip
        return {
            "is_available": lambda: True,
            "is_initialized": lambda: True,
            "is_bf16_supported": lambda *_: True,
            "is_current_stream_capturing": lambda: self.capturing,
            "device_count": lambda: 1,
            "current_device": lambda: 0,
            "set_device": lambda _: None,
            "get_device_name": lambda *_: gpu.name,
            "get_device_capability": lambda *_: gpu.capability,
            "get_device_properties": lambda *_: properties,
            "mem_get_info": lambda *_: (gpu.memory, gpu.memory),
            "max_memory_allocated": lambda *_: 0,
            "current_stream": lambda *_: stream,
            "set_stream": lambda _: None,
            "Stream": lambda *_: stream,
            "CUDAGraph": _Graph,
            "graph": self.graph,
            "graph_pool_handle": lambda: (0, 0),
            "stream": self.nothing,
            "device": self.nothing,
            "device_of": self.nothing,
            "_lazy_init": lambda: None,
        }


@contextmanager
def virtual(gpu: Gpu) -> Iterator[Cuda]:
    """Within, tensors on "cuda" are fake ones of a GPU; addresses are as its allocator gives them.

    Reading a value of one on the host is an error, as is an operator whose result's shape depends
    on values: both would wait for the device.
    """
    cuda = Cuda(gpu)
    from triton.runtime import driver

    properties = {"max_shared_mem": gpu.shared, "multiprocessor_count": gpu.multiprocessors}
    utils = SimpleNamespace(get_device_properties=lambda _: properties)
    active = SimpleNamespace(utils=utils, get_current_device=lambda: 0)
    _forget_devices()
    with ExitStack() as stack:
        for name, function in cuda.functions().items():
            stack.enter_context(patch.object(torch.cuda, name, function))
        stack.enter_context(patch.object(type(driver), "active", active))
        stack.enter_context(patch.object(FakeTensor, "data_ptr", _address, create=True))
        stack.enter_context(patch.object(torch.nn.Module, "_apply", _apply))
        # On one thread: the device's own would be this one's stand-in, too.
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        stack.enter_context(_FakeTensors(allow_non_fake_inputs=True))
        try:
            yield cuda
        finally:
            _forget_devices()


class _FakeTensors(FakeTensorMode):
    """Makes constants on the host and copies them, for there are no kernels that make them."""

    @property
    def avoid_device_init(self) -> bool:
        return True


def _apply(module: torch.nn.Module, fn: Any, recurse: bool = True) -> torch.nn.Module:
    """`nn.Module._apply`, by new parameters: fake ones cannot be changed into others in place."""
    del recurse
    found: dict[torch.Tensor, torch.Tensor] = {}
    for part in module.modules():
        held: list[dict[str, Any]] = [part._parameters, part._buffers]
        for tensors in held:
            for name, t in tensors.items():
                if t is not None and t not in found:
                    moved = fn(t)
                    if isinstance(t, torch.nn.Parameter):
                        moved = torch.nn.Parameter(moved.detach(), t.requires_grad)
                    found[t] = moved
                if t is not None:
                    tensors[name] = found[t]
    return module


_addresses: dict[int, tuple[object, int]] = {}


def _address(t: torch.Tensor) -> int:
    """A made-up address: storages lie far apart, each at a multiple of the allocator's step."""
    storage = t.untyped_storage()
    key = storage._cdata
    if key not in _addresses:  # kept, so that no other storage comes to the same key
        _addresses[key] = storage, (len(_addresses) + 1) << 40
    return _addresses[key][1] + int(t.storage_offset()) * t.element_size()


def _forget_devices() -> None:
    """Has the caches of what was known of cuda:0 filled anew."""
    from fastgan.kernels.conv_block.geometry import device_target
    from fastgan.kernels.conv_block.tma.plan import has_tma
    from fastgan.ops.conv import tuning
    from fastgan.ops.core import dispatch

    device_target.cache_clear()
    has_tma.cache_clear()
    tuning.device_name.cache_clear()
    dispatch.choices.clear()
