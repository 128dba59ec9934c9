"""Rehearses steps on a virtual GPU, which torch must not have been imported before."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

# What os._exit leaves out: threads of torch would outlive the fake tensors that they hold.
SCRIPT = """
import os, sys
from tools.rehearse import device
try:
    device.load()
except device.NoVirtualDevice as reason:
    print("no virtual device:", reason)
    os._exit(5)
import pytest
code = pytest.main(sys.argv[1:])
sys.stdout.flush()
os._exit(code)
"""


@pytest.mark.parametrize("path", sorted(HERE.glob("virtual/test_*.py")), ids=lambda path: path.stem)
def test_rehearsed(path: Path) -> None:
    pytest.importorskip("triton")
    options = ["-q", "--no-header", "-p", "no:cacheprovider"]
    options += ["-p", "no:unraisableexception"]  # it has garbage collected: see device.load
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path), *options],
        env=os.environ | {"FASTGAN_VIRTUAL_DEVICE": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if "no virtual device:" in run.stdout:
        pytest.skip(run.stdout.strip())
    assert run.returncode == 0, run.stdout[-20000:] + run.stderr[-4000:]
    assert " passed" in run.stdout
    assert "skipped" not in run.stdout
