"""fastgan bench"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fastgan.checks import check_int
from fastgan.cli._checkout import in_checkout
from fastgan.cli._common import parse
from fastgan.system import check_folder

_MAX_THREADS = 1024  # what the largest machines run at once
_NOTHING_RAN = 5  # as pytest says it


@dataclass(frozen=True)
class Arguments:
    """Run the performance suite of a source checkout: every peer, interleaved, checked first."""

    quick: bool = False
    """Few cases, eager and compiled peers: under two minutes on two cores."""
    only: str | None = None
    """Benchmarks whose names match, as pytest's -k: norm_act, "dcgan_step and bfloat16" ..."""
    keep: bool = False
    """Write results to bench/results/MACHINE, which is committed, not to bench/results/local: file
    by file, once they are complete. Cut short, the same command goes on where it was."""
    results: Path | None = None
    """Write results to this folder."""
    threads: int | None = None
    """OpenMP threads; by default as many as torch takes."""


def run(arguments: list[str]) -> int:
    chosen = parse(Arguments, arguments, prog="fastgan bench")
    if chosen.threads is not None:
        check_int("threads", chosen.threads, 1, _MAX_THREADS)
    if chosen.results is not None:
        check_folder(chosen.results)
    options = ["bench", "--benchmark", "-q"]
    if chosen.quick:
        options.append("--quick")
    if chosen.only is not None:
        options += ["-k", chosen.only]
    if chosen.results is not None:
        options.append(f"--results={chosen.results.resolve()}")
    elif chosen.keep:
        options.append("--keep")
    status = in_checkout("pytest", *options, threads=chosen.threads)
    if status == _NOTHING_RAN and chosen.only is not None:
        raise ValueError(f"only: the name of no benchmark matches {chosen.only!r}")
    return status
