"""The compiled library: loaded when first asked for, with the reason where it is not there."""

from __future__ import annotations

import importlib
import json
import sysconfig
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any

import torch

_PACKAGE = Path(__file__).resolve().parents[2]
LEFT_OUT = "FASTGAN_NATIVE=0 was set"
"""setup.py's reason where it was not to be built, as in the wheel for any platform."""


@cache
def build_record() -> dict[str, Any]:
    """What the installation recorded in `_build.json`.

    native, cuda, autograd: what was built, with a reason beside each that was not. python: whether
    the last one is a module of Python, too. torch, cuda_version: what with. cuda_archs: the
    architectures that have machine code, and cuda_ptx the one whose PTX later ones compile when
    they load it.
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


class _Kernels:
    """The overload `kernel` of each compiled operator, by its name, for plain eager calls: what the
    overload's own call, a function of Python, would call.
    """

    def __getattr__(self, name: str) -> Any:
        call = getattr(torch.ops.fastgan, name).kernel._op
        setattr(self, name, call)
        return call


KERNELS = _Kernels()


class _WithAutograd:
    """norm_act and bias_act with their derivatives in C++, layers of torch.nn (`norm_layer`,
    `convolution`), `count`, which adds to a number of a layer, and `unchanged`, which looks whether
    objects are as they were: of plain eager calls whose arguments need no conversion. Of another
    one they do nothing and give None, or False. So do `kind`, a value by which arguments alike are
    known, `empties`, which makes tensors of such a kind, `call_kind`, of a whole call, and `known`,
    what a dictionary holds for that. `from_python` says whether all of them are there.
    """

    def __getattr__(self, name: str) -> Any:
        call = _from_python(name) or _by_operator(name)
        setattr(self, name, call)
        return call


WITH_AUTOGRAD = _WithAutograd()


def from_python() -> bool:
    """Whether `_autograd.so` is a module of this Python: norm_act and bias_act are operators else,
    and the rest does nothing."""
    return _from_python("unchanged") is not None


@cache
def _from_python(name: str) -> Any:
    """The function of `_autograd.so` as a module, where it is one of this Python."""
    if why_no_autograd() is not None or not build_record().get("python"):
        return None
    if sysconfig.get_config_var("Py_GIL_DISABLED"):  # whose objects begin otherwise
        return None
    try:
        return getattr(importlib.import_module("fastgan._autograd"), name, None)
    except ImportError:
        return None


_TENSORS = {"norm_act": 5, "bias_act": 2}  # that an operator is called with first
_PLAIN = frozenset((torch.Tensor, torch.nn.Parameter, NoneType))


def _by_operator(name: str) -> Callable[..., Any]:
    if name not in _TENSORS:
        return lambda *_: False
    run = getattr(torch.ops.fastgan, f"{name}_eager").default._op
    count = _TENSORS[name]

    def call(*given: Any) -> Any:
        return run(*given) if _PLAIN.issuperset(map(type, given[:count])) else None

    return call


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
    if "python" not in record:
        return f"{library.name} was built from earlier sources: build it again"
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
