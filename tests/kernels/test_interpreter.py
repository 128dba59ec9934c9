"""Runs the kernels in Triton's interpreter, on CPU tensors.

Triton decides at import whether it interprets, for the whole process: so the files run in processes
of their own, whatever the tests around them have imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = sorted((HERE / "interpreted").glob("test_*.py"))
# Files share a few processes: each takes as long to start as most of the files run.
TOGETHER = {"convolutions": "test_conv_*.py", "norms": "test_norm_*.py", "others": "test_[!cn]*.py"}
RUNS = {name: sorted(HERE.glob(f"interpreted/{files}")) for name, files in TOGETHER.items()}
OPTIONS = ("-q", "--no-header", "-p", "no:cacheprovider")


def test_there_is_something_to_run() -> None:
    assert sorted(path for paths in RUNS.values() for path in paths) == FILES
    assert all(RUNS.values())


@pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="already interpreting: the files run directly"
)
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", RUNS)
def test_interpreted(name: str) -> None:
    triton = pytest.importorskip("triton")
    numpy = pytest.importorskip("numpy")
    if triton.__version__ < "3.7" and numpy.lib.NumpyVersion(numpy.__version__) >= "2.4.0":
        pytest.skip(f"the interpreter of triton {triton.__version__} needs numpy < 2.4")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *map(str, RUNS[name]), *OPTIONS],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-20000:] + run.stderr[-4000:]
    assert " passed" in run.stdout
    assert "skipped" not in run.stdout
