"""Running what stands in a source checkout beside the package."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import fastgan

_GRACE = 2.0  # seconds


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
    with subprocess.Popen(command, cwd=root, env=variables) as process:
        try:
            return process.wait()
        except BaseException:
            _let_end(process)
            raise


def _let_end(process: subprocess.Popen[bytes]) -> None:
    """Waits until a process has kept what it has and said so, when this one was told to stop.

    Ctrl-C comes to both; what came to this one alone is passed on.
    """
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        process.wait()
