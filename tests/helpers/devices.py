"""Where a test runs: on the backends of the CPU and, where there is a GPU, on those of a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import pytest
import torch

GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
# For Triton's kernels, compiled: a process of the interpreter cannot.
COMPILED = [
    *GPU,
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="Triton interprets here"),
]
DEVICES = ["cpu", pytest.param("cuda", marks=GPU)]
BACKENDS = {"reference": "cpu", "cpu": "cpu", "triton": "cuda", "cuda": "cuda"}
ON_GPU = [pytest.param(name, marks=GPU) for name in ("triton", "cuda")]


def everywhere(
    names: str, host: Iterable[tuple[Any, ...]], gpu: Iterable[tuple[Any, ...]]
) -> pytest.MarkDecorator:
    """Parametrizes `device` and `names`: values for each backend of the CPU, and of a GPU."""
    cases = [pytest.param(b, *v) for v in host for b in ("reference", "cpu")]
    cases += [pytest.param(b, *v, marks=GPU) for v in gpu for b in ("triton", "cuda")]
    return pytest.mark.parametrize(f"device, {names}", cases, indirect=["device"], ids=str)
