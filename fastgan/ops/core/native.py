"""The compiled library: loaded when first asked for, with the reason where it is not there."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch

_PACKAGE = Path(__file__).resolve().parents[2]


@cache
def build_record() -> dict[str, Any]:
    """What the installation recorded in `_build.json`: native, cuda, reason, torch."""
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
    """The compiled kernels, by the names of the operators that they are an overload of."""

    def __getattr__(self, name: str) -> Any:
        kernel = getattr(torch.ops.fastgan, name).kernel
        setattr(self, name, kernel)
        return kernel


KERNELS = _Kernels()


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


@cache
def why_no_cuda() -> str | None:
    """None where the library holds the CUDA kernels, else why it does not."""
    reason = load()
    if reason is None and not build_record()["cuda"]:
        reason = str(build_record().get("cuda_reason") or "built without CUDA")
    return reason


def kept_memory(limit: int | None = None) -> int:
    """Bytes of freed blocks that the CPU kernels hold for their next outputs.

    Memory fresh from the system is slow to write to first, so large outputs of norm_act, bias_act
    and fastgan's convolutions come back to a store of up to 512 MiB when they are freed. limit: so
    many bytes at most from here on, in this process; 0 holds nothing. ValueError for a negative
    one. 0 where there is no compiled library.
    """
    if limit is not None and limit < 0:
        raise ValueError(f"limit: expected a number of bytes >= 0, got {limit}")
    if load() is not None:
        return 0
    held: int = torch.ops.fastgan.kept_memory(limit)
    return held
