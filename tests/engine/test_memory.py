"""keep_freed_memory, in processes of their own: what it sets lasts until a process ends."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from fastgan.engine.memory import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else None
def step():
    [torch.ones(4 * 2**20) for _ in range(6)]  # of 16 MB each
step(), step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


TOUCHED = 4 * 6 * 16 * 2**20 // resource.getpagesize()


def faults(mode: str, **environment: str) -> tuple[str, int]:
    """What keep_freed_memory answered, and the page faults of four steps of 6 x 16 MB."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    clean.pop("GLIBC_TUNABLES", None)
    result = subprocess.run(
        [sys.executable, "-c", FAULTS, mode], env=clean | environment, capture_output=True,
        text=True, check=True, timeout=120,
    )  # fmt: skip
    kept, count = result.stdout.split()
    return kept, int(count)


def test_freed_blocks_are_used_again() -> None:
    kept, count = faults("keep")
    if kept == "False":
        pytest.skip("the C library is not glibc")
    assert count < TOUCHED // 10
    # glibc learns to keep some by itself in some processes, but not where it is told from which
    # size on a block is mapped by itself.
    assert faults("leave", MALLOC_MMAP_THRESHOLD_="131072")[1] > TOUCHED // 2


def test_the_environment_has_the_last_word() -> None:
    kept, _ = faults("keep", MALLOC_TRIM_THRESHOLD_="131072")
    assert kept == "False"
