"""Launches past Triton's door, which must be those that it makes: compiled for a GPU, and handed to
a driver that only notes them.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

import triton
from triton import language as tl
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from fastgan.kernels.core import launch
from fastgan.kernels.core.launch import Launch

SHARED = {"max_shared_mem": 232448}


@triton.jit(do_not_specialize=("length",))
def kernel(x_ptr, y_ptr, out_ptr, scale, length, ADD: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, at < length) * scale + ADD
    if y_ptr is not None:
        x += tl.load(y_ptr + at, at < length)
    tl.store(out_ptr + at, x, at < length)


class Door:
    """The kernel, and how often it is launched by Triton."""

    arg_names = kernel.arg_names

    def __init__(self) -> None:
        self.passed = 0

    def __getitem__(self, grid: tuple[int]) -> Any:
        self.passed += 1
        return kernel[grid]


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the driver is given of each launch: grid, stream and function, and the arguments."""
    if torch.cuda.is_available():
        pytest.skip("with a GPU the driver is that GPU's")
    if not isinstance(kernel, JITFunction):
        pytest.skip("Triton interprets")
    calls: list[tuple[Any, ...]] = []

    class Launcher:
        def __init__(self, source: Any, metadata: Any) -> None:
            pass

        def __call__(self, *args: Any) -> None:
            *where, packed, _, enter, leave = args[:9]  # without the hook's metadata, made anew
            calls.append((*where, packed, enter, leave, *args[9:]))

    utils = SimpleNamespace(
        get_device_properties=lambda _: SHARED, load_binary=lambda *_: (1, 2, 32, 0, 1024)
    )
    active = SimpleNamespace(
        get_current_device=lambda: 0, get_current_stream=lambda _: 7,
        get_current_target=lambda: GPUTarget("cuda", 90, 32), launcher_cls=Launcher, utils=utils,
    )  # fmt: skip
    for module in ("runtime.jit", "compiler.compiler"):
        monkeypatch.setattr(f"triton.{module}.driver", SimpleNamespace(active=active))
    kernel.device_caches.clear()
    return calls


def made(door: Door) -> Launch:
    named = {"length": 64, "ADD": 3, "BLOCK": 64, "num_warps": 2}
    return Launch(door, (5,), named, varying=(0, 1))


def test_a_second_launch_is_as_the_first(launched: list[tuple[Any, ...]]) -> None:
    door, x = Door(), torch.zeros(64)
    run = made(door)
    for _ in range(3):
        run(x, None, x, 0.5)
    assert door.passed == 1
    assert launched[0] == launched[1] == launched[2]
    assert launched[0][:4] == (5, 1, 1, 7)
    assert launched[0][8:] == (x, None, x, 0.5, 64, 3, 64)


def test_tensors_of_another_kind_are_compiled_for(launched: list[tuple[Any, ...]]) -> None:
    door, x, y = Door(), torch.zeros(65), torch.zeros(64)
    run = made(door)
    others = [(x, None), (x[1:], None), (x.half(), None), (x, y), (x, y.half()), (x, x[1:])]
    for _ in range(2):
        for first, second in others:
            run(first, second, y, 0.5)
    assert door.passed == len(others)
    assert len(launched) == 2 * len(others)


def test_who_replaces_the_door_sees_the_launch(
    launched: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    door, x, seen = Door(), torch.zeros(64), []
    run = made(door)
    run(x, None, x, 0.5)
    monkeypatch.setattr(JITFunction, "run", lambda *_, **given: seen.append(given["grid"]))
    run(x, None, x, 0.5)
    assert seen == [(5,)]
    assert len(launched) == 1


def test_of_an_unknown_triton_the_door_is_used(
    launched: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "KNOWN", ("2.",))
    door, x = Door(), torch.zeros(64)
    run = made(door)
    for _ in range(2):
        run(x, None, x, 0.5)
    assert door.passed == len(launched) == 2
