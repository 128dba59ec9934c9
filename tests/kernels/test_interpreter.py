"""Runs the kernels in Triton's interpreter, on CPU tensors.

Triton decides at import whether it interprets, for the whole process: so each file runs in a
process of its own, whatever the tests around it have imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = sorted((HERE / "interpreted").glob("test_*.py"))


def test_there_is_something_to_run() -> None:
    assert len(FILES) >= 3


@pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="already interpreting: the files run directly"
)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_interpreted(path: Path) -> None:
    triton = pytest.importorskip("triton")
    numpy = pytest.importorskip("numpy")
    if triton.__version__ < "3.7" and numpy.lib.NumpyVersion(numpy.__version__) >= "2.4.0":
        pytest.skip(f"the interpreter of triton {triton.__version__} needs numpy < 2.4")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", str(path), "-q", "--no-header", "-p", "no:cacheprovider"],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-20000:] + run.stderr[-4000:]
    assert " passed" in run.stdout
    assert "skipped" not in run.stdout
