"""`python -m tools.rehearse [RECIPE ...] [--gpus sm_90,...] [--quick]`; `--help` lists the rest."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import warnings
from pathlib import Path

from . import device


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.rehearse", description=__doc__)
    parser.add_argument("recipes", nargs="*", help="names of recipes; by default all")
    parser.add_argument("--gpus", default="", help="comma-separated targets, such as sm_90,sm_100")
    parser.add_argument("--no-compile", action="store_true", help="compile no kernel")
    parser.add_argument("--no-execute", action="store_true", help="interpret no kernel")
    parser.add_argument("--quick", action="store_true", help="two variants on sm_90 alone")
    parser.add_argument("--json", type=Path, help="also write the counts to a file")
    options = parser.parse_args(arguments)
    try:
        device.load()
    except device.NoVirtualDevice as reason:
        print(f"no rehearsal: {reason}", file=sys.stderr)
        return 2
    warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
    from .rehearsal import FEW, executed, rehearse

    names, gpus = options.recipes, options.gpus.split(",") if options.gpus else []
    found = rehearse(names, gpus, not options.no_compile, options.quick)
    if options.json:
        options.json.write_text(json.dumps([dataclasses.asdict(step) for step in found]))
    wrong = sorted({problem for step in found for problem in step.problems})
    if not options.no_execute:
        ran = executed(names)
        wrong += ran.problems
        launched = {kernel for step in found for kernel in step.nodes}
        left = sorted(launched - {f"triton {kernel}" for kernel in ran.kernels})
        print(f"\n{ran.calls} calls of {FEW} images executed in {ran.seconds:.0f} s; not executed:")
        print(", ".join(kernel for kernel in left if kernel.startswith("triton ")) or "no kernel")
        print("of the C++ library (launches are counted; tests/csrc executes the kernels):")
        print(", ".join(kernel for kernel in left if kernel.startswith("cuda ")) or "no kernel")
    for problem in wrong:
        print(problem, file=sys.stderr)
    print(f"{len(found)} steps, {len(wrong)} problems")
    return 1 if wrong else 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of autograd hold fake tensors, which the interpreter's end would free beneath them.
    os._exit(code)
