"""fastgan bench"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import fastgan
from fastgan.cli._common import parse


@dataclass(frozen=True)
class Arguments:
    """Run the performance suite of a source checkout: every peer, interleaved, checked first."""

    quick: bool = False
    """Few cases, eager and compiled peers: under two minutes on two cores."""
    only: str | None = None
    """Benchmarks whose names match, as pytest's -k: norm_act, "dcgan_step and bfloat16" ..."""
    keep: bool = False
    """Write results to bench/results/MACHINE, which is committed, not to bench/results/local."""
    results: Path | None = None
    """Write results to this folder."""
    threads: int | None = None
    """OpenMP threads; by default as many as torch takes."""
    compare: tuple[Path, Path] | None = None
    """Run nothing: compare two runs' results, BEFORE and AFTER (files or folders)."""
    plot: Path | None = None
    """Run nothing: draw the results in this folder into it, as SVG (fastgan[plot])."""
    against_main: bool = False
    """Build main beside this tree and let both take turns on the cases of bench/history."""


def run(arguments: list[str]) -> int:
    chosen = parse(Arguments, arguments, prog="fastgan bench")
    root = find_suite()
    if chosen.threads is not None and chosen.threads < 1:
        raise ValueError(f"threads must be at least 1, got {chosen.threads}")
    if chosen.compare is not None:
        paths = [str(path.resolve()) for path in chosen.compare]
        return _python(root, "bench.harness.compare", *paths)
    if chosen.plot is not None:
        return _python(root, "bench.harness.plots", str(chosen.plot.resolve()))
    if chosen.against_main:
        return _python(root, "bench.harness.against", "main")
    options = ["bench", "--benchmark", "-q", "--benchmark-columns=median,iqr,rounds"]
    if chosen.quick:
        options.append("--quick")
    if chosen.only is not None:
        options += ["-k", chosen.only]
    if chosen.results is not None:
        options.append(f"--results={chosen.results.resolve()}")
    elif chosen.keep:
        options.append("--keep")
    return _python(root, "pytest", *options, threads=chosen.threads)


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


def _python(root: Path, module: str, *arguments: str, threads: int | None = None) -> int:
    variables = dict(os.environ)
    if threads is not None:
        variables["OMP_NUM_THREADS"] = str(threads)
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=root, env=variables, check=False).returncode
