"""Signals to the command: before, during and after the steps, each in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fastgan.engine import Callback, Trainer, find_checkpoint
from fastgan.engine.run_folder import RunFolder

from .conftest import all_tensors, tiny_trainer

TRAIN = ["train", "mlp-gan", "--steps=4", "--batch-size=8", "--limit=64", "--device=cpu"]
TRAIN += ["--log-every=1", "--sample-every=0", "--checkpoint-every=0", "--sample-count=4"]


def run(out: Path, prelude: str, *more: str) -> subprocess.CompletedProcess[str]:
    """The command, after ``prelude`` has made the place where it sends itself a signal."""
    code = f"""
    import os, signal, sys
    import fastgan.cli
    {textwrap.indent(textwrap.dedent(prelude), "    ").strip()}
    sys.exit(fastgan.cli.main({[*TRAIN, f"--out={out}", *more]!r}))
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


IN_THE_SECOND_STEP = """
from fastgan.engine import Trainer
step = Trainer.train_step
def signalled(self):
    if self.step == 1:
        for _ in range({times}):
            os.kill(os.getpid(), signal.{name})
    step(self)
Trainer.train_step = signalled
"""


def test_a_second_ctrl_c_ends_quietly_and_the_run_is_resumable(tmp_path):
    out = tmp_path / "run"
    ended = run(out, IN_THE_SECOND_STEP.format(times=2, name="SIGINT"))
    assert ended.returncode == 130
    assert "Traceback" not in ended.stderr
    assert "stopped by SIGINT" in ended.stderr
    assert find_checkpoint(out).step == 1
    assert run(out, "", "--resume").returncode == 0


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_before_the_trainer_stands_says_so_and_leaves_no_folder(tmp_path, name):
    out = tmp_path / "run"
    prelude = f"""
    import fastgan.recipes.recipe as module
    module.open_images = lambda *_, **__: os.kill(os.getpid(), signal.{name})
    """
    ended = run(out, prelude)
    assert ended.returncode == 128 + getattr(signal, name)
    assert ended.stderr == f"fastgan: stopped by {name}\n"
    assert not out.exists()


@pytest.fixture
def uninterrupted(tmp_path, recorder) -> Trainer:
    trainer = tiny_trainer(steps=2)
    trainer.fit(tmp_path / "uninterrupted", reporter=recorder)
    return trainer


@pytest.mark.parametrize("moment", ["_make", "_take_lock", "_admit", "describe"])
def test_a_signal_before_the_first_step_leaves_a_run_that_resumes(
    tmp_path, recorder, monkeypatch, moment, uninterrupted
):
    works = getattr(RunFolder, moment)

    def signalled(self, *arguments):
        monkeypatch.undo()
        signal.raise_signal(signal.SIGTERM)
        return works(self, *arguments)

    monkeypatch.setattr(RunFolder, moment, signalled)
    result = tiny_trainer(steps=2).fit(tmp_path / "run", reporter=recorder)
    assert (result.step, result.finished, result.stopped_by) == (0, False, signal.SIGTERM)
    again = tiny_trainer(steps=2)
    assert again.fit(tmp_path / "run", resume=True, reporter=recorder).finished
    expected = all_tensors(uninterrupted)
    assert all(v.equal(expected[k]) for k, v in all_tensors(again).items())


@pytest.mark.parametrize("hook", ["on_step", "on_checkpoint"])
def test_a_signal_after_the_last_step_lets_the_run_finish(tmp_path, recorder, hook):
    def signalled(trainer: Trainer, *_: object) -> None:
        if trainer.step == trainer.config.steps:
            signal.raise_signal(signal.SIGTERM)

    callback = Callback()
    setattr(callback, hook, signalled)
    trainer = tiny_trainer(steps=2, parts={"callbacks": [callback]})
    result = trainer.fit(tmp_path / "run", reporter=recorder)
    assert (result.step, result.finished, result.stopped_by) == (2, True, None)
