"""Files are written beside the steps, by steps or by time."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from fastgan.engine import Callback, TrainConfig, Trainer, find_checkpoint
from fastgan.engine import state as module
from fastgan.engine.checkpoint import list_checkpoints
from fastgan.engine.distributed import DistributedGroup
from fastgan.engine.intervals import Clock, Interval, parse_interval
from fastgan.engine.loggers import Logger
from fastgan.engine.writer import Writer

from .conftest import tiny_trainer

WAIT = 60.0


def test_jobs_run_beside_and_one_too_many_waits_for_the_first(tmp_path):
    writer, gate, next_one = Writer(), threading.Event(), threading.Event()

    def slow() -> Path:
        assert gate.wait(WAIT)
        return tmp_path

    for _ in range(Writer.AHEAD):
        writer.submit(slow)
    assert writer.made() == []

    def submit() -> None:
        writer.submit(lambda: None)
        next_one.set()

    other = threading.Thread(target=submit)
    other.start()
    assert not next_one.wait(0.05)
    gate.set()
    assert next_one.wait(WAIT)
    other.join()
    assert writer.made(wait=True) == [tmp_path] * Writer.AHEAD
    assert writer.made(wait=True) == []
    writer.close()


def test_an_error_is_raised_in_the_thread_of_the_steps():
    writer = Writer()

    def fail() -> None:
        raise OSError(errno.ENOSPC, "no room")

    writer.submit(fail)
    with pytest.raises(OSError, match="no room"):
        writer.made(wait=True)
    writer.submit(fail)
    writer.submit(lambda: Path("later"))
    assert isinstance(writer.drain(), OSError)
    assert writer.made() == [Path("later")]
    assert writer.drain() is None
    writer.close()


class AtStep(Callback):
    def __init__(self, step: int, function: Any) -> None:
        self.step, self.function, self.written = step, function, []

    def on_step(self, trainer: Trainer) -> None:
        if trainer.step == self.step:
            self.function()

    def on_checkpoint(self, trainer: Trainer, path: Path) -> None:
        self.written.append((trainer.step, path.name))


def test_steps_are_made_while_a_checkpoint_is_written(tmp_path, recorder, monkeypatch):
    gate, works = threading.Event(), module.write_checkpoint

    def slow(folder: Path, step: int, *given: Any) -> Path:
        assert threading.current_thread() is not threading.main_thread()
        assert gate.wait(WAIT)
        return works(folder, step, *given)

    monkeypatch.setattr(module, "write_checkpoint", slow)

    def open_gate() -> None:
        assert not list_checkpoints(tmp_path / "run" / "checkpoints")
        gate.set()

    callback = AtStep(4, open_gate)
    trainer = tiny_trainer(parts={"callbacks": [callback]}, checkpoint_every=3)
    result = trainer.fit(tmp_path / "run", reporter=recorder)
    # What is written is what stood there when the step was made.
    assert [find_checkpoint(p).step for p in list_checkpoints(tmp_path / "run/checkpoints")] == [
        6,
        3,
    ]
    assert [name for _, name in callback.written] == ["step-00000003", "step-00000006"]
    assert callback.written[0][0] > 3
    assert result.checkpoint == tmp_path / "run" / "checkpoints" / "step-00000006"


def test_no_step_waits_for_a_disk(tmp_path, recorder, monkeypatch):
    """Each file of a checkpoint and each grid hangs in its sync until all steps have been made."""
    gate, hung, works = threading.Event(), threading.Event(), os.fsync

    def slow(handle: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            hung.set()
            assert gate.wait(WAIT)
        works(handle)

    class Loud(Logger):
        def start(self, *_: Any) -> None: ...
        def metrics(self, *_: Any) -> None: ...
        def images(self, step: int, name: str, images: Any) -> None:
            seen.append((step, name))

        def artifact(self, *_: Any) -> None: ...
        def close(self) -> None: ...

    def open_gate() -> None:
        assert hung.wait(WAIT)
        assert not list((tmp_path / "run" / "samples").glob("*.png"))
        assert not list_checkpoints(tmp_path / "run" / "checkpoints")
        gate.set()

    seen: list[tuple[int, str]] = []
    monkeypatch.setattr(os, "fsync", slow)
    callbacks = [AtStep(3, open_gate), Loud()]
    settings = {"steps": 3, "sample_every": 2, "checkpoint_every": 2}
    trainer = tiny_trainer(parts={"callbacks": callbacks}, **settings)
    trainer.fit(tmp_path / "run", reporter=recorder)
    assert seen == [(2, "samples"), (3, "samples")]
    assert [p.name for p in list_checkpoints(tmp_path / "run" / "checkpoints")] == [
        "step-00000003",
        "step-00000002",
    ]


def test_an_error_of_the_writer_ends_the_run_and_loses_nothing(tmp_path, recorder, monkeypatch):
    works = module.write_checkpoint

    def full_once(folder: Path, step: int, *given: Any) -> Path:
        if step == 2:
            raise OSError(errno.ENOSPC, "no room for step 2")
        return works(folder, step, *given)

    monkeypatch.setattr(module, "write_checkpoint", full_once)
    with pytest.raises(OSError, match="no room for step 2"):
        tiny_trainer().fit(tmp_path / "run", reporter=recorder)
    newest = find_checkpoint(tmp_path / "run")
    assert newest.step > 2
    assert any(f"step {newest.step} is saved" in note for note in recorder.notes)
    assert not [t for t in threading.enumerate() if t.name.startswith("fastgan-writer")]


@pytest.mark.parametrize(
    ("given", "interval"),
    [
        (500, Interval(500)),
        ("500", Interval(500)),
        (0, Interval()),
        ("90s", Interval(seconds=90)),
        ("10min", Interval(seconds=600)),
        ("1h 30min", Interval(seconds=5400)),
        ("1.5h", Interval(seconds=5400)),
        ("2 D", Interval(seconds=172800)),
    ],
)
def test_an_interval_is_steps_or_a_time(given, interval):
    assert parse_interval("checkpoint_every", given) == interval
    assert TrainConfig(checkpoint_every=given).checkpoint_every == given


@pytest.mark.parametrize("given", ["10 parsecs", "soon", -10, "", "min", "-5s", "0s", "900d", True])
def test_what_is_none_is_told(given):
    message = r"sample_every must (be|lie) (a number|at least 0|between)"
    with pytest.raises((ValueError, TypeError), match=message):
        TrainConfig(sample_every=given)


def test_a_time_is_over_once(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("fastgan.engine.intervals.time.monotonic", lambda: now[0])
    intervals = {"a": Interval(seconds=10), "b": Interval(steps=2), "c": Interval()}
    clock = Clock(intervals, DistributedGroup())
    due = []
    for step in range(1, 6):
        now[0] += 4
        due.append([n for n in intervals if clock.due(n, step, together=False)])
    assert due == [[], ["b"], ["a"], ["b"], []]


def test_a_run_saves_by_time_and_keeps_three(tmp_path, recorder):
    assert TrainConfig().keep_last == 3
    callback = AtStep(0, None)
    settings = {"checkpoint_every": "0.0001s", "sample_every": "1h", "steps": 5}
    trainer = tiny_trainer(parts={"callbacks": [callback]}, **settings)
    trainer.fit(tmp_path / "run", reporter=recorder)
    assert [name for _, name in callback.written] == [f"step-0000000{n}" for n in range(1, 6)]
    kept = [int(p.name[5:]) for p in list_checkpoints(tmp_path / "run" / "checkpoints")]
    assert kept == [5, 4, 3]
    assert len(list((tmp_path / "run" / "samples").iterdir())) == 1
