"""The CUDA kernels' bodies, compiled by the host compiler and run thread by thread."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import act

ROOT = Path(__file__).resolve().parents[2]
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
SOURCES = ("emulate", "emulate_gather", "emulate_small_channels")
KINDS = {"leaky_relu": 0, "tanh": 1, "sigmoid": 2}


class _Problem(ctypes.Structure):
    _fields_ = (
        ("dtype", ctypes.c_int),
        ("channels_last", ctypes.c_int),
        ("wide", ctypes.c_int),
        ("segments", ctypes.c_longlong),
        ("batch", ctypes.c_longlong),
        ("channels", ctypes.c_longlong),
        ("spatial", ctypes.c_longlong),
        ("kind", ctypes.c_int),
        ("first", ctypes.c_int),
        ("slope", ctypes.c_float),
        ("sms", ctypes.c_int),
        ("shared_per_block", ctypes.c_int),
        ("max_cluster", ctypes.c_int),
    )


@dataclass(frozen=True)
class Problem:
    """A tensor of (batch, channels, spatial), an activation, and the device it would run on."""

    batch: int
    channels: int
    spatial: int
    dtype: torch.dtype = torch.float32
    channels_last: bool = True
    segments: int = 1
    activation: str = "leaky_relu"
    slope: float = 0.2
    act_first: bool = False
    sms: int = 4
    shared_per_block: int = 0  # too small for anything: the streamed path
    max_cluster: int = 1

    @property
    def pack(self) -> int:
        return 16 // self.dtype.itemsize

    @property
    def wide(self) -> bool:
        inner = self.channels if self.channels_last else self.spatial
        return inner % self.pack == 0

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.batch, self.channels, self.spatial)

    def single_pass(self, kib: int = 227, cluster: int = 1) -> Problem:
        return replace(self, shared_per_block=kib * 1024, max_cluster=cluster)

    def activated(self, y: torch.Tensor) -> torch.Tensor:
        return act(y, KINDS[self.activation], self.slope)

    def lay(self, x: torch.Tensor) -> torch.Tensor:
        """x as the kernels see its memory: (N, S, C) for channels-last."""
        x = x.to(self.dtype)
        return x.transpose(1, 2).contiguous() if self.channels_last else x.contiguous()

    def unlay(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2) if self.channels_last else x

    def struct(self) -> _Problem:
        return _Problem(
            DTYPES[self.dtype], self.channels_last, self.wide, self.segments, self.batch,
            self.channels, self.spatial, KINDS[self.activation], self.act_first, self.slope,
            self.sms, self.shared_per_block, self.max_cluster,
        )  # fmt: skip


@dataclass(frozen=True)
class Ran:
    """How an op ran: its launches, and the blocks of a cluster (0: not in a single pass)."""

    launches: int
    cluster: int


class Emulator:
    """csrc/cuda's launch sequences on the host. Outputs start as NaN, inside guarded memory."""

    GUARD = 64

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library

    def blank(self, like: torch.Tensor) -> torch.Tensor:
        """A NaN tensor with `like`'s shape, amid guard elements that a stray store would change."""
        whole = torch.full((like.numel() + 2 * self.GUARD,), float("nan"), dtype=like.dtype)
        whole[: self.GUARD] = 7
        whole[whole.numel() - self.GUARD :] = 7
        return whole[self.GUARD : whole.numel() - self.GUARD].view(like.shape)

    def check_guards(self, tensor: torch.Tensor) -> None:
        whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
        assert (whole[: self.GUARD] == 7).all()
        assert (whole[-self.GUARD :] == 7).all()

    def call(self, name: str, problem: Any, *args: Any) -> Ran:
        """Calls emulate_NAME; problem: what gives the structure that goes first, or None."""

        def plain(arg: Any) -> Any:
            if isinstance(arg, torch.Tensor):
                return ctypes.c_void_p(arg.data_ptr())
            if isinstance(arg, float):
                return ctypes.c_float(arg)
            if isinstance(arg, bool):
                return ctypes.c_int(arg)
            return ctypes.c_longlong(arg) if isinstance(arg, int) else arg

        head = () if problem is None else (ctypes.byref(problem.struct()),)
        code = getattr(self.library, f"emulate_{name}")(*head, *map(plain, args))
        for arg in args:
            if isinstance(arg, torch.Tensor) and arg.storage_offset() == self.GUARD:
                self.check_guards(arg)
        assert code >= 0
        return Ran(code // 32, code % 32)


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++ to compile the kernels' bodies for the host")
    base = tmp_path_factory.getbasetemp()
    # Workers side by side share one library: the first to come compiles it.
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    path = shared / "emulate.so"
    sources = [str(Path(__file__).with_name(f"{name}.cpp")) for name in SOURCES]
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            subprocess.run(
                [compiler, "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared",
                 f"-I{ROOT / 'csrc'}", *sources, "-o", str(path)],
                check=True,
            )  # fmt: skip
    library = ctypes.CDLL(str(path))
    library.emulate_offset.restype = ctypes.c_longlong
    library.emulate_fast_div.restype = ctypes.c_uint
    library.emulate_fast_div.argtypes = [ctypes.c_uint, ctypes.c_uint]
    library.emulate_to_float.restype = ctypes.c_float
    library.emulate_to_float.argtypes = [ctypes.c_int, ctypes.c_ushort]
    library.emulate_from_float.restype = ctypes.c_ushort
    library.emulate_from_float.argtypes = [ctypes.c_int, ctypes.c_float]
    return Emulator(library)


@pytest.fixture(scope="session")
def problem() -> type[Problem]:
    return Problem
