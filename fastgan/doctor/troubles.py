"""The usual reasons why fastgan is slow or missing on a machine, each with what mends it."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import torch

import fastgan
from fastgan.ops.core import native
from fastgan.system import check_folder

_DRIVER = Path("/proc/driver/nvidia/version")
_AGAIN = "pip install --no-build-isolation --force-reinstall --no-deps FOLDER"
_CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")


class Trouble(NamedTuple):
    """What is wrong, and what to do."""

    what: str
    fix: str


def find_troubles() -> list[Trouble]:
    """All that can be told without running anything; empty on a machine in order."""
    checks = (_shadowed, _not_built, _another_torch, _gpu, _caches, _threads)
    return [trouble for check in checks for trouble in check()]


def _shadowed() -> Iterator[Trouble]:
    """A checkout's folder that comes before the installed package, which alone is built."""
    here = Path(fastgan.__file__).resolve().parent
    found = list(metadata.distributions(name="fastgan"))
    if (here.parent / "pyproject.toml").exists():
        # A build leaves a description in the checkout, which is found before the package's own.
        found = [d for d in found if Path(str(d.locate_file(""))).resolve() != here.parent]
    if not found:
        yield Trouble(
            f"fastgan is not installed; it is imported from {here}",
            "pip install --editable . in the checkout (or make setup)",
        )
        return
    files = found[0].files or []
    installed = next((f for f in files if f.as_posix() == "fastgan/__init__.py"), None)
    if installed is None:  # editable
        return
    folder = Path(str(installed.locate())).parent
    if folder.resolve() != here:
        yield Trouble(
            f"the checkout {here} shadows the installed package in {folder}",
            "run from another folder, or pip install --editable . in the checkout",
        )


def _not_built() -> Iterator[Trouble]:
    if (reason := native.load()) is None:
        return
    compiler = os.environ.get("CXX", "g++")
    fix = f"install fastgan again from its sources: {_AGAIN}"
    if reason == native.LEFT_OUT:
        fix = "take the wheel for this platform (Linux on x86-64), or " + fix
    elif shutil.which(compiler) is None:
        fix = f"install a C++ compiler ({compiler} is not found) and {fix}"
    instead = "CPUs run PyTorch's own layers, at their speed, and GPUs Triton's kernels"
    yield Trouble(f"the C++ extension cannot be used: {reason}; {instead}", fix)


def _another_torch() -> Iterator[Trouble]:
    built = native.build_record().get("torch")
    if built is not None and built != torch.__version__:
        yield Trouble(
            f"the C++ extension was built for torch {built}, this is {torch.__version__}: "
            "derivatives run in Python, which small layers feel",
            f"install fastgan again from its sources: {_AGAIN}",
        )


def _gpu() -> Iterator[Trouble]:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if torch.cuda.is_available():
        if (reason := native.why_no_cuda()) is not None:
            yield Trouble(
                f"the CUDA kernels cannot be used, Triton's are: {reason}",
                "install fastgan again where nvcc of torch's CUDA is on the path",
            )
    elif _DRIVER.exists() and torch.version.cuda is None:
        yield Trouble(
            "this machine has an NVIDIA driver, and torch is built without CUDA",
            "install a CUDA build of torch (pytorch.org), then fastgan again",
        )
    elif _DRIVER.exists() and hidden is not None and not hidden.strip("-1 "):
        yield Trouble(f"CUDA_VISIBLE_DEVICES={hidden!r} hides every GPU", "unset it")
    elif torch.version.cuda is not None and _DRIVER.exists():
        yield Trouble(
            f"torch {torch.__version__} sees no GPU with this driver: "
            + _DRIVER.read_text().partition("\n")[0].strip(),
            f"update the driver to one for CUDA {torch.version.cuda}, or take an older torch",
        )


def _caches() -> Iterator[Trouble]:
    home = Path.home()
    folders = {
        "TRITON_CACHE_DIR": home / ".triton",
        "TORCHINDUCTOR_CACHE_DIR": None,
        "XDG_CACHE_HOME": home / ".cache",
    }
    for variable, usual in folders.items():
        folder = Path(os.environ[variable]) if os.environ.get(variable) else usual
        if folder is None:
            continue
        try:
            check_folder(folder)
        except OSError:
            yield Trouble(
                f"{folder} cannot be written: nothing compiled or tuned is kept",
                f"set {variable} to a folder that can be",
            )


def _threads() -> Iterator[Trouble]:
    """More threads than the processors that this process may use: they wait for each other."""
    has_affinity = hasattr(os, "sched_getaffinity")  # on Linux
    allowed = float(len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1)
    if _CPU_LIMIT.is_file():
        quota, _, period = _CPU_LIMIT.read_text().partition(" ")
        allowed = allowed if quota == "max" else min(allowed, int(quota) / int(period))
    threads = torch.get_num_threads()
    if threads > math.ceil(allowed):
        yield Trouble(
            f"torch takes {threads} threads where this process may use {allowed:g} processors",
            f"set OMP_NUM_THREADS={max(1, math.floor(allowed))}",
        )
