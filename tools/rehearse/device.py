"""Loads `device.cpp`: one CUDA device without memory or kernels, for fake tensors alone.

torch asks once, early, which accelerator there is: so this comes before torch is imported.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

_SOURCE = Path(__file__).with_name("device.cpp")
_BUILD = Path(__file__).resolve().parents[2] / "build" / "rehearse"


class NoVirtualDevice(RuntimeError):
    """Why a rehearsal cannot run here."""


def load() -> None:
    """Gives this process a CUDA device for fake tensors.

    Raises:
        NoVirtualDevice: torch was imported before, is a build with CUDA, or is not there; or there
            is no C++ compiler.
    """
    if "torch" in sys.modules:
        raise NoVirtualDevice("torch was imported before the virtual device was loaded")
    torch = _torch_folder()
    if (torch / "lib" / "libtorch_cuda.so").exists():
        raise NoVirtualDevice("a rehearsal needs a CPU build of torch; this one has CUDA")
    library = _built(torch)
    ctypes.CDLL(str(torch / "lib" / "libtorch_cpu.so"), mode=ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(library))
    # torch 2.13's heap was found corrupted when Python's collector freed fake tensors on a device
    # that torch was not built for. A rehearsal is short: what hangs in cycles stays.
    gc.disable()


def _torch_folder() -> Path:
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        raise NoVirtualDevice("torch is not installed")
    return Path(found.origin).parent


def _built(torch: Path) -> Path:
    """The compiled library, made where there is none of this source and torch."""
    version = importlib.metadata.version("torch")
    library = _BUILD / f"device-{version}.so"
    if library.exists() and library.stat().st_mtime >= _SOURCE.stat().st_mtime:
        return library
    compiler = shutil.which("g++")
    if compiler is None:
        raise NoVirtualDevice("no C++ compiler (g++) for the virtual device")
    _BUILD.mkdir(parents=True, exist_ok=True)
    partial = library.with_suffix(".partial")
    command = [
        compiler, "-shared", "-fPIC", "-std=c++20", f"-I{torch}/include",
        f"-I{torch}/include/torch/csrc/api/include", str(_SOURCE), "-o", str(partial),
        f"-L{torch}/lib", "-lc10", "-ltorch_cpu",
    ]  # fmt: skip
    subprocess.run(command, check=True)
    partial.replace(library)
    return library
