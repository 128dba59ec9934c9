"""How much faster this checkout is than another commit, each in fresh processes that take turns.

    python -m bench.commits a6249aa                  # every workload, one thread
    python -m bench.commits HEAD~1 --only step-16 norm-16x16 --pairs 7 --threads 2

The other commit is unpacked under build/commits/ and its C++ extension is built there, once, with
the torch of this environment. Both sides run `bench/commits/workload.py`, which needs only public
names. A ratio is the other commit's time over this checkout's in one pair; above 1, this is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

from bench.commits import workload as measured
from bench.harness.machine import git
from bench.harness.source import ROOT
from bench.paired import ratio_interval

WORKLOAD = Path(measured.__file__)


def unpacked(commit: str) -> Path:
    """The files of a commit with its extension built, in a folder named after it."""
    found = git("rev-parse", "--verify", "--quiet", commit + "^{commit}")
    if not found:
        raise SystemExit(f"{commit} is not a commit of this repository")
    folder = ROOT / "build" / "commits" / found[:12]
    done = folder / ".built"
    if not done.exists():
        print(f"building {commit} in {folder}: minutes", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        archive = folder / ".tar"
        git("archive", "--output", str(archive), found)
        subprocess.run(["tar", "x", "-f", str(archive), "-C", str(folder)], check=True)
        archive.unlink()
        build = [sys.executable, "setup.py", "--quiet", "build_native", "--inplace"]
        subprocess.run(build, cwd=folder, check=True)
        done.touch()
    return folder


def seconds_of(tree: Path, workload: str, threads: int, seconds: float) -> float:
    """The median time of a step in a fresh process that imports fastgan from `tree`."""
    command = [sys.executable, str(WORKLOAD), str(tree), workload, str(threads), str(seconds)]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(command, env=environment, cwd=tree, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{workload} failed in {tree}:\n{done.stderr}")
    return float(json.loads(done.stdout.splitlines()[-1]))


def compare(before: Path, workload: str, arguments: argparse.Namespace) -> str:
    """A line of the table."""
    times: dict[Path, list[float]] = {before: [], ROOT: []}
    for pair in range(arguments.pairs):
        for tree in (before, ROOT) if pair % 2 else (ROOT, before):
            found = seconds_of(tree, workload, arguments.threads, arguments.seconds)
            times[tree].append(found)
    ratios = [a / b for a, b in zip(times[before], times[ROOT], strict=True)]
    ratio = ratio_interval(times[before], times[ROOT])
    old, new = (1e3 * median(times[tree]) for tree in (before, ROOT))
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
    return f"| {workload} | {old:.3f} | {new:.3f} | **{ratio.value:.3f}** | {spread} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.commits", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("commit", help="what to compare this checkout with")
    parser.add_argument(
        "--only", nargs="+", choices=measured.WORKLOADS, default=list(measured.WORKLOADS)
    )
    parser.add_argument("--pairs", type=int, default=5, help="fresh processes a side (5)")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each process (6)")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (1)")
    arguments = parser.parse_args()
    for name in ("pairs", "threads"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} is {getattr(arguments, name)}; it must be at least 1")
    before = unpacked(arguments.commit)
    title = f"threads: {arguments.threads} | {arguments.commit}, ms | this checkout, ms"
    print(f"| {title} | ratio | of the pairs |\n|---|---|---|---|---|", flush=True)
    for workload in arguments.only:
        print(compare(before, workload, arguments), flush=True)


if __name__ == "__main__":
    main()
