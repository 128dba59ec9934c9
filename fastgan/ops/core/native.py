"""The compiled library: loaded when first asked for, with the reason where it is not there."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch

_PACKAGE = Path(__file__).resolve().parents[2]
LEFT_OUT = "FASTGAN_NATIVE=0 was set"
"""setup.py's reason where it was not to be built, as in the wheel for any platform."""


@cache
def build_record() -> dict[str, Any]:
    """What the installation recorded in `_build.json`.

    native, cuda, autograd: what was built, with a reason beside each that was not. torch,
    cuda_version: what with. cuda_archs: the architectures that have machine code, and cuda_ptx the
    one whose PTX later ones compile when they load it.
    """
    path = _PACKAGE / "_build.json"
    if not path.is_file():
        return {"native": False, "cuda": False, "reason": "fastgan was not installed (no build)"}
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


@cache
def load() -> str | None:
    """Registers the native operators with torch. None, or why that cannot be done."""
    library = _PACKAGE / "_native.so"
    if not library.is_file():
        return str(build_record()["reason"] or f"{library.name} is missing from the package")
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        return f"{library.name} does not load: {error}"
    return None


class _Compiled:
    """An overload of each compiled operator, by its name, for plain eager calls: what an overload's
    own call, a function of Python, would call.
    """

    def __init__(self, overload: str) -> None:
        self._overload = overload

    def __getattr__(self, name: str) -> Any:
        call = getattr(getattr(torch.ops.fastgan, name), self._overload)._op
        setattr(self, name, call)
        return call


KERNELS = _Compiled("kernel")
"""The kernels alone."""
WITH_AUTOGRAD = _Compiled("default")
"""Those with their derivatives in C++."""


@cache
def why_no_autograd() -> str | None:
    """None where derivatives in C++ are at hand, else why not: the ops then have them in Python.

    They use parts of torch that differ between its versions.
    """
    record, library = build_record(), _PACKAGE / "_autograd.so"
    reason = load()
    if reason is not None:
        return reason
    if not library.is_file():
        return str(record.get("autograd_reason") or f"{library.name} is missing from the package")
    if record["torch"] != torch.__version__:
        return f"built for torch {record['torch']}, this is {torch.__version__}"
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        return f"{library.name} does not load: {error}"
    return None


def why_no_cuda(device: int | None = None) -> str | None:
    """None where the library holds CUDA kernels for a GPU, by default the current one."""
    reason = _why_not_built()
    if reason is None and torch.cuda.is_available():
        reason = _why_not_on(torch.cuda.current_device() if device is None else device)
    return reason


@cache
def _why_not_built() -> str | None:
    record, reason = build_record(), load()
    if reason is None and not record["cuda"]:
        reason = str(record.get("cuda_reason") or "built without CUDA")
    built, here = record.get("cuda_version", ""), torch.version.cuda or ""
    if reason is None and built and built.partition(".")[0] != here.partition(".")[0]:
        reason = f"built with CUDA {built}, torch {torch.__version__} is of CUDA {here or 'none'}"
    return reason


@cache
def _why_not_on(device: int) -> str | None:
    major, minor = torch.cuda.get_device_capability(device)
    record = build_record()
    archs, ptx = record.get("cuda_archs"), record.get("cuda_ptx", "")
    later = bool(ptx) and (major, minor) >= _capability(ptx)
    if archs is None or later or any(_runs(arch, (major, minor)) for arch in archs):
        return None
    return (
        f"built for sm_{', sm_'.join(archs)}, and this GPU is sm_{major}{minor}: install again "
        f"with FASTGAN_CUDA_ARCHS={major}{minor}"
    )


def _runs(arch: str, capability: tuple[int, int]) -> bool:
    """Whether machine code runs on a GPU: on later minor numbers too, but a GPU's own ("90a")."""
    major, minor = _capability(arch)
    if arch.endswith("a"):
        return capability == (major, minor)
    return capability[0] == major and capability[1] >= minor


def _capability(arch: str) -> tuple[int, int]:
    return divmod(int(arch.rstrip("af")), 10)


def cached_memory(limit: int | None = None) -> int:
    """Bytes of freed blocks that the caching CPU allocator holds for the kernels' next outputs.

    Memory fresh from the system is slow to write to first, so large outputs of norm_act, bias_act
    and fastgan's convolutions come back to the allocator, up to 512 MiB of them, when they are
    freed. 0 where there is no compiled library.

    Args:
        limit: so many bytes at most from here on, in this process; 0 holds nothing.

    Raises:
        ValueError: limit is negative.
    """
    if limit is not None and limit < 0:
        raise ValueError(f"limit: expected a number of bytes >= 0, got {limit}")
    if load() is not None:
        return 0
    held: int = torch.ops.fastgan.cached_memory(limit)
    return held
