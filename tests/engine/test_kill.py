"""A run killed in the middle goes on to the very weights of an uninterrupted one."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fastgan.engine import find_checkpoint

STEPS = 40


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


def final_tensors(run: Path) -> dict[str, torch.Tensor]:
    checkpoint = find_checkpoint(run)
    assert checkpoint.step == STEPS
    return {
        f"{file}.{name}": tensor
        for file in checkpoint.manifest["files"]
        for name, tensor in checkpoint.tensors(file.removesuffix(".safetensors")).items()
    }


@pytest.mark.slow
def test_sigkill_in_the_middle_then_resume_is_bit_for_bit_exact(tmp_path):
    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True)

    killed = tmp_path / "killed"
    process = subprocess.Popen(command(killed), stdout=subprocess.DEVNULL)
    wait_for(killed / "checkpoints" / "step-00000006", process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    at = find_checkpoint(killed).step
    assert 6 <= at < STEPS
    done = subprocess.run(command(killed, "--resume"), check=True, capture_output=True, text=True)
    assert f"at step {at}" in done.stdout

    whole, resumed = final_tensors(tmp_path / "whole"), final_tensors(killed)
    assert whole.keys() == resumed.keys()
    assert [k for k in whole if not torch.equal(whole[k], resumed[k])] == []


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
