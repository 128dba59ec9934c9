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


def need_memory(gibibytes: int) -> None:
    if torch.cuda.mem_get_info()[0] < gibibytes * 2**30:
        pytest.skip(f"needs {gibibytes} GiB of free GPU memory")


SWEEP_PARTS = 6


def sweep(test: Any) -> Any:
    """Of a test with a `part`: each runs a sample of the configurations, together all of them."""
    return pytest.mark.sweep(pytest.mark.parametrize("part", range(SWEEP_PARTS))(test))


def part_of(configurations: Iterable[Any], part: int, needed: bool = True) -> list[Any]:
    """Every SWEEP_PARTS-th configuration, in an order that does not change between processes.

    Args:
        needed: where the part is empty, the test is skipped.
    """
    found = sorted(configurations, key=str)[part::SWEEP_PARTS]
    if needed and not found:
        pytest.skip("fewer configurations than parts")
    return found
