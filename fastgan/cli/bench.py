"""fastgan bench"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fastgan.cli._checkout import in_checkout
from fastgan.cli._common import bounded, parse
from fastgan.system import check_folder

_MAX_THREADS = 1024  # what the largest machines run at once


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
    if chosen.threads is not None:
        bounded("threads", chosen.threads, 1, _MAX_THREADS)
    for folder in (chosen.results, chosen.plot):
        if folder is not None:
            check_folder(folder)
    if chosen.compare is not None:
        paths = [str(path.resolve()) for path in chosen.compare]
        return in_checkout("bench.harness.compare", *paths)
    if chosen.plot is not None:
        return in_checkout("bench.harness.plots", str(chosen.plot.resolve()))
    if chosen.against_main:
        return in_checkout("bench.harness.against", "main")
    options = ["bench", "--benchmark", "-q", "--benchmark-columns=median,iqr,rounds"]
    if chosen.quick:
        options.append("--quick")
    if chosen.only is not None:
        options += ["-k", chosen.only]
    if chosen.results is not None:
        options.append(f"--results={chosen.results.resolve()}")
    elif chosen.keep:
        options.append("--keep")
    return in_checkout("pytest", *options, threads=chosen.threads)
