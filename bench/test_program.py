"""What the whole program costs: importing it, its memory, its wheel, its build.

Times are medians over fresh processes that take turns, so that the first's cold files are no one's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import pytest

from bench.harness.machine import ROOT
from bench.harness.session import Session

ROUNDS = 7
NOTHING = "import torch"
IMPORTS = {
    "torch": NOTHING,
    "import fastgan": "import torch, fastgan",
    "import fastgan.nn": "import torch, fastgan.nn",
    "from fastgan import fuse": "import torch; from fastgan import fuse",
    "from fastgan import train": "import torch; from fastgan import train",
}
STEPS = """
from bench.harness.case import STEP, Case
from bench.test_dcgan_step import workload
work = workload(Case("DCGAN-64 step", "batch 64", "float32", "channels last", STEP))
runner = work.runner({name!r})
for turn in range(3):
    runner.ready(turn)()
"""
TRAIN = "from fastgan.cli import main; main({arguments!r})"
# The peak of the process itself: what the system counts for a child holds its parent's, too.
PEAK = """
for line in open("/proc/self/status"):
    if line.startswith("VmHWM"):
        print(line)
"""


def add(suite: Session, what: str, value: float, unit: str) -> None:
    suite.add("program", {"kind": "program", "what": what, "value": value, "unit": unit})


def peak_mib(code: str) -> float:
    """The largest resident memory of a process that runs this, in MiB."""
    command = [sys.executable, "-c", f"{code}\n{PEAK}"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, env=variables, check=True)
    name, kib, _ = done.stdout.splitlines()[-2].split()
    assert name == b"VmHWM:", name
    return int(kib) / 2**10


@pytest.mark.full
def test_import_time(suite: Session) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for i in range(ROUNDS + 1):
        for name, code in IMPORTS.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
            if i:
                seconds[name].append(time.perf_counter() - started)
    of_torch = seconds.pop("torch")
    add(suite, "a process that imports torch", median(of_torch), "s")
    for name, values in seconds.items():
        beyond = [a - b for a, b in zip(values, of_torch, strict=True)]
        add(suite, f"{name}, beyond torch", median(beyond), "s")


@pytest.mark.full
def test_peak_memory(suite: Session, tmp_path: Path) -> None:
    add(suite, "peak host memory: import torch", peak_mib(NOTHING), "MiB")
    for name in ("fused", "eager (channels last)"):
        peak = peak_mib(STEPS.format(name=name))
        add(suite, f"peak host memory: three DCGAN-64 steps of batch 64, {name}", peak, "MiB")
    arguments = ["train", "digits", "--steps=20", f"--out={tmp_path / 'run'}", "--device=cpu"]
    peak = peak_mib(TRAIN.format(arguments=arguments))
    add(suite, "peak host memory: fastgan train digits", peak, "MiB")


@pytest.mark.full
def test_wheel(suite: Session, tmp_path: Path) -> None:
    """Built from a copy, so that nothing is there to be reused."""
    pytest.importorskip("build", reason="needs the package build")
    tree = tmp_path / "tree"
    leave_out = shutil.ignore_patterns(
        ".*", "build", "dist", "runs", "*.so", "*.egg-info", "results"
    )
    shutil.copytree(ROOT, tree, symlinks=True, ignore=leave_out)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", f"--outdir={tmp_path}"]
    started = time.perf_counter()
    subprocess.run(command, cwd=tree, check=True, stdout=subprocess.DEVNULL)
    add(suite, "building the wheel, C++ included", time.perf_counter() - started, "s")
    (wheel,) = tmp_path.glob("*.whl")
    add(suite, "size of the wheel", wheel.stat().st_size / 2**20, "MiB")
