"""Running what stands in a source checkout beside the package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import fastgan


def find_suite() -> Path:
    """The checkout whose bench/ is run: this package's own, else the current folder's.

    FileNotFoundError where neither is one: an installed package holds no benchmarks.
    """
    own = Path(fastgan.__file__).resolve().parent.parent
    for root in (own, Path.cwd()):
        if (root / "bench" / "harness" / "__init__.py").is_file():
            return root
    raise FileNotFoundError(
        "the performance suite is part of fastgan's source, not of the installed package: there "
        f"is no bench/harness in {own} or {Path.cwd()}; run it in a checkout"
    )


def in_checkout(module: str, *arguments: str, threads: int | None = None) -> int:
    """Run a module of the checkout in a process of its own; its exit status."""
    root = find_suite()
    variables = dict(os.environ)
    if threads is not None:
        variables["OMP_NUM_THREADS"] = str(threads)
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=root, env=variables, check=False).returncode
