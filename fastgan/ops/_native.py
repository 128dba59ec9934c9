"""The compiled library: loaded when first asked for, with the reason where it is not there."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch

_PACKAGE = Path(__file__).resolve().parent.parent


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


@cache
def why_no_cuda() -> str | None:
    """None where the library holds the CUDA kernels, else why it does not."""
    reason = load()
    if reason is None and not build_record()["cuda"]:
        reason = str(build_record().get("cuda_reason") or "built without CUDA")
    return reason
