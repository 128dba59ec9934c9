"""A run killed at any moment goes on to the very weights of an uninterrupted one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastgan.engine import find_checkpoint

STEPS = 40
WORKER = Path(__file__).with_name("kill_worker.py")


def command(out: Path, *more: str) -> list[str]:
    train = [sys.executable, "-m", "fastgan", "train", "digits", "--out", str(out)]
    settings = {
        "steps": STEPS,
        "batch-size": 8,
        "limit": 64,
        "checkpoint-every": 3,
        "log-every": 1,
        "sample-every": 0,
        "device": "cpu",
    }
    return [*train, *(f"--{k}={v}" for k, v in settings.items()), *more]


def wait_for(path: Path, process: subprocess.Popen, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < until, f"{path} did not appear"
        time.sleep(0.005)


@pytest.mark.slow
def test_sigkill_at_random_moments_then_resume_is_bit_for_bit_exact(tmp_path):
    """FASTGAN_KILLS=100 for the long form; the worker runs by itself too."""
    kills = os.environ.get("FASTGAN_KILLS", "10")
    done = subprocess.run(
        [sys.executable, WORKER, tmp_path, kills], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{kills} kills in" in done.stdout


@pytest.mark.slow
def test_sigterm_saves_says_how_to_go_on_and_exits_143(tmp_path):
    out = tmp_path / "run"
    process = subprocess.Popen(command(out), stdout=subprocess.PIPE, text=True)
    wait_for(out / "checkpoints" / "step-00000003", process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert f"go on with: fastgan train digits --out {out} --resume" in output
    step = find_checkpoint(out).step
    assert f"stopped at step {step}" in output
    assert step < STEPS
