"""Whatever ends a run, what was trained is saved first, and resume goes on from it exactly."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from fastgan.engine import Callback, DistributedGroup, LostRankError, Trainer, find_checkpoint
from fastgan.engine.agreement import Agreement
from fastgan.engine.checkpoint import list_checkpoints
from fastgan.engine.state import copy_state, save_alone
from fastgan.engine.train_state import TrainState

from .conftest import all_tensors, tiny_trainer

SETTINGS: dict[str, Any] = {"checkpoint_every": 0, "log_every": 1, "sample_every": 1}
STRUCK = 3


class Failing(Callback):
    """Raises in one of its hooks once ``STRUCK`` steps are made."""

    def __init__(self, hook: str, error: BaseException) -> None:
        def fail(trainer: Trainer, *_: object) -> None:
            if trainer.step == STRUCK:
                raise error

        setattr(self, hook, fail)


def fail_at(trainer: Trainer, what: str, error: BaseException) -> None:
    if what in ("on_step", "on_log", "score"):
        trainer.callbacks.append(Failing(what, error))
        return
    owner, name = {"data": (trainer.loader, "rows"), "sample": (trainer, "sample")}[what]
    works = getattr(owner, name)

    def fail(*arguments: Any) -> Any:
        if trainer.step == STRUCK:
            raise error
        return works(*arguments)

    setattr(owner, name, fail)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights of an uninterrupted run."""
    from .conftest import Recorder

    trainer = tiny_trainer(**SETTINGS)
    torch.manual_seed(7)
    trainer.fit(tmp_path_factory.mktemp("whole") / "run", reporter=Recorder())
    return all_tensors(trainer)


def assert_goes_on(out: Path, whole: dict[str, torch.Tensor], recorder: Any) -> None:
    again = tiny_trainer(**SETTINGS)
    assert again.fit(out, resume=True, reporter=recorder).finished
    tensors = all_tensors(again)
    assert not [k for k, v in whole.items() if not torch.equal(v, tensors[k])]


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("data", RuntimeError("a file of the set is gone")),
        ("on_step", ZeroDivisionError()),
        ("on_step", KeyboardInterrupt()),
        ("on_step", SystemExit(3)),
        ("on_log", KeyError("a name")),
        ("sample", RuntimeError("out of memory")),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_an_error_between_two_steps_loses_nothing(tmp_path, recorder, whole, what, error):
    trainer = tiny_trainer(**SETTINGS)
    torch.manual_seed(7)
    fail_at(trainer, what, error)
    with pytest.raises(type(error)) as raised:
        trainer.fit(tmp_path / "run", reporter=recorder)
    assert raised.value is error
    saved = find_checkpoint(tmp_path / "run")
    assert saved.step == STRUCK
    assert f"step {STRUCK} is saved in {saved.path}: resume goes on" in recorder.notes[-1]
    assert getattr(error, "__notes__", recorder.notes)[-1] == recorder.notes[-1]
    assert_goes_on(tmp_path / "run", whole, recorder)


@dataclass(frozen=True)
class _Second(DistributedGroup):
    """The second of two processes, the first of which waits for it once an error has struck."""

    trainer: Any = None

    def collect(self, value):
        assert self.trainer.step < STRUCK, "a collective"
        return [value]

    def from_first(self, function):
        return self.collect(function())[0]

    def mean(self, values):
        return values

    def part(self, whole):
        return whole


def second_of_two(trainer: Trainer) -> Trainer:
    trainer.group = _Second(1, 2, None, trainer)
    return trainer


@pytest.mark.parametrize("what", ["data", "on_step"])
def test_an_error_of_one_process_of_several_loses_nothing(
    tmp_path, capsys, what, whole, monkeypatch
):
    """It saves alone, without meeting the others."""
    # As on GPUs between two log points.
    monkeypatch.setattr(Agreement, "signal", lambda *_, **__: None)
    error, out = RuntimeError("a file of the set is gone"), tmp_path / "run"
    trainer = second_of_two(tiny_trainer(**{**SETTINGS, "log_every": 100}))
    torch.manual_seed(7)
    fail_at(trainer, what, error)
    with pytest.raises(RuntimeError) as raised:
        trainer.fit(out)
    assert raised.value is error
    saved = find_checkpoint(out)
    assert saved.step == STRUCK
    assert set(saved.tensors("rng")) == {"noise", "noise.1", "torch.1"}
    said = capsys.readouterr().out
    assert "process 1 ends the run: a file of the set is gone" in said
    assert f"step 3 is saved in {saved.path}" in said
    # The second goes on as if nothing had been; the first has other masks of dropout.
    again = tiny_trainer(**SETTINGS)
    second_of_two(again).load(saved)
    while again.step < again.config.steps:
        again.train_step()
    assert not [k for k, v in whole.items() if not torch.equal(v, all_tensors(again)[k])]
    tiny_trainer(**SETTINGS).load(saved)


def test_processes_that_save_alone_do_not_meet_in_the_folder(tmp_path):
    trainer = second_of_two(tiny_trainer(**SETTINGS))
    first = save_alone(trainer, tmp_path)
    content = (first / "checkpoint.json").read_bytes()
    trainer.generator.requires_grad_(False)
    next(trainer.generator.parameters()).fill_(1.0)
    assert save_alone(trainer, tmp_path) == first
    assert (first / "checkpoint.json").read_bytes() == content


@pytest.mark.parametrize("error", [LostRankError("it has failed"), KeyboardInterrupt()])
def test_a_process_whose_device_may_wait_without_end_saves_nothing(tmp_path, recorder, error):
    trainer = second_of_two(tiny_trainer(**{**SETTINGS, "log_every": 100}))
    fail_at(trainer, "on_step", error)
    with pytest.raises(type(error)):
        trainer.fit(tmp_path / "run", reporter=recorder)
    assert not list_checkpoints(tmp_path / "run" / "checkpoints")


def test_an_error_in_the_middle_of_a_step_saves_nothing_of_it(tmp_path, recorder, whole):
    trainer = tiny_trainer(**{**SETTINGS, "checkpoint_every": 2})
    torch.manual_seed(7)
    update = trainer.gan.update_g.finish

    def fail() -> None:
        if trainer.step == STRUCK:  # the discriminator was updated, the generator was not
            raise RuntimeError("out of memory")
        update()

    trainer.gan.update_g.finish = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.fit(tmp_path / "run", reporter=recorder)
    newest = find_checkpoint(tmp_path / "run")
    assert newest.step == 2
    told = f"ended in the middle of step 4; the newest checkpoint is {newest.path}"
    assert told in recorder.notes[-1]
    assert_goes_on(tmp_path / "run", whole, recorder)
    trainer.load(newest)
    assert trainer.whole


def test_the_first_error_is_the_one_that_ends_the_run(tmp_path, recorder, monkeypatch):
    trainer = tiny_trainer(**SETTINGS)
    fail_at(trainer, "data", RuntimeError("a file of the set is gone"))

    def full(*_: Any, **__: Any) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("fastgan.engine.loop.save_state", full)
    with pytest.raises(RuntimeError, match="a file of the set is gone"):
        trainer.fit(tmp_path / "run", reporter=recorder)
    assert "step 3 could not be saved either: [Errno 28] No space left" in recorder.notes[-1]
    assert not list_checkpoints(tmp_path / "run" / "checkpoints")


def test_what_is_saved_already_is_not_saved_again(tmp_path, recorder, monkeypatch):
    trainer = tiny_trainer(**{**SETTINGS, "checkpoint_every": STRUCK})
    fail_at(trainer, "data", RuntimeError("a file of the set is gone"))
    calls = []

    def counted(state: TrainState, *given: Any, **info: Any) -> Callable[[], Path]:
        calls.append(state.step)
        return copy_state(state, *given, **info)

    for place in ("loop", "state"):  # beside the steps, and at once
        monkeypatch.setattr(f"fastgan.engine.{place}.copy_state", counted)
    with pytest.raises(RuntimeError):
        trainer.fit(tmp_path / "run", reporter=recorder)
    assert calls == [STRUCK]


@pytest.mark.parametrize("spoiled", [False, True])
def test_a_run_that_stops_at_a_gradient_that_is_not_finite(tmp_path, recorder, spoiled):
    """Its last step is kept, unless statistics or averages hold what is not finite."""
    from fastgan.engine import NonFiniteError

    trainer = tiny_trainer(**SETTINGS)

    def spoil(trainer: Trainer) -> None:
        if trainer.step == STRUCK:
            trainer.gan.update_g.skipped += 1
            if spoiled:
                next(trainer.generator.buffers()).fill_(float("nan"))

    callback = Callback()
    callback.on_step = spoil  # type: ignore[method-assign]
    trainer.callbacks.append(callback)
    where = "there is no checkpoint" if spoiled else "the newest checkpoint is .*step-00000003"
    with pytest.raises(NonFiniteError, match=where):
        trainer.fit(tmp_path / "run", reporter=recorder)
    assert len(list_checkpoints(tmp_path / "run" / "checkpoints")) == (0 if spoiled else 1)
