"""A launcher's variables are looked at before any group is joined."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch

from fastgan.cli import main
from fastgan.data.stream_loader import _default_workers
from fastgan.engine import Callback, distributed
from fastgan.engine.device import resolve_device
from fastgan.engine.distributed import launched
from fastgan.engine.launch import Launch, local_device, read_launch

from .conftest import tiny_trainer

GOOD = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}
BAD = [
    ("RANK", "5", "RANK must lie below WORLD_SIZE, got RANK=5 and WORLD_SIZE=2"),
    ("RANK", "2", "RANK must lie below WORLD_SIZE"),
    ("RANK", "-1", "RANK must be at least 0, got -1"),
    ("RANK", "first", "RANK must be a whole number, got 'first'"),
    ("RANK", "", "RANK must be a whole number, got ''"),
    ("RANK", "1_0", "RANK must be a whole number, got '1_0'"),
    ("RANK", None, "WORLD_SIZE is set and RANK is not"),
    ("WORLD_SIZE", "0", "WORLD_SIZE must be at least 1, got 0"),
    ("WORLD_SIZE", "2.0", "WORLD_SIZE must be a whole number, got '2.0'"),
    ("WORLD_SIZE", None, "RANK is set and WORLD_SIZE is not"),
    ("WORLD_SIZE", "1", "RANK must lie below WORLD_SIZE"),
    ("LOCAL_RANK", "2", "LOCAL_RANK must lie below LOCAL_WORLD_SIZE"),
    ("LOCAL_RANK", "-1", "LOCAL_RANK must be at least 0"),
    ("LOCAL_WORLD_SIZE", "0", "LOCAL_WORLD_SIZE must be at least 1, got 0"),
    ("LOCAL_WORLD_SIZE", "3", "LOCAL_WORLD_SIZE must be at most WORLD_SIZE"),
    ("MASTER_ADDR", None, "MASTER_ADDR is not set"),
    ("MASTER_PORT", None, "MASTER_PORT is not set"),
    ("MASTER_PORT", "http", "MASTER_PORT must be a whole number"),
    ("MASTER_PORT", "65536", "MASTER_PORT must be at most 65535"),
]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in GOOD:
        monkeypatch.delenv(name, raising=False)


def put(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_what_a_launcher_says_is_read(monkeypatch):
    assert read_launch() is None
    put(monkeypatch, GOOD)
    assert read_launch() == Launch(rank=1, size=2)
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    monkeypatch.delenv("LOCAL_RANK")
    assert read_launch() == Launch(rank=1, size=2)


def test_a_single_process_needs_no_address(monkeypatch):
    put(monkeypatch, {"RANK": "0", "WORLD_SIZE": "1"})
    with launched("cpu") as group:
        assert (group.rank, group.size) == (0, 1)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("name", "value", "message"), BAD)
def test_a_wrong_variable_is_named_and_nothing_is_joined(name, value, message, monkeypatch):
    put(monkeypatch, {k: v for k, v in GOOD.items() if k != name})
    if value is not None:
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message), launched("cpu"):
        raise AssertionError("joined")
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("size", ["0", "-2", "many"])
def test_threads_are_not_counted_by_a_wrong_number_of_processes(size, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", size)
    with pytest.raises(ValueError, match="LOCAL_WORLD_SIZE must be"):
        _default_workers()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1000")
    assert _default_workers() == 1


def test_a_local_rank_beyond_the_devices_is_refused(monkeypatch):
    put(monkeypatch, GOOD)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    message = "LOCAL_RANK is 1, and torch sees 1 CUDA devices"
    for attempt in (local_device, lambda: resolve_device("auto"), lambda: resolve_device("cuda")):
        with pytest.raises(ValueError, match=message):
            attempt()
    with pytest.raises(ValueError, match=message), launched("auto"):
        raise AssertionError("joined")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == torch.device("cuda", 1)
    monkeypatch.delenv("LOCAL_RANK")
    with pytest.raises(ValueError, match="LOCAL_RANK is not set"), launched("auto"):
        raise AssertionError("joined")


class _Graph:
    def __init__(self, events: list[str]) -> None:
        self.reset = lambda: events.append("graph reset")


class _Fails(Callback):
    def on_step(self, trainer):
        raise OSError("the disk is full")


@pytest.mark.parametrize("callbacks", [[], [_Fails()]], ids=["finished", "failed"])
def test_graphs_go_before_their_process_group(callbacks, monkeypatch, tmp_path, recorder):
    """NCCL waits for the graphs that hold its collectives when a group is destroyed."""
    events: list[str] = []
    put(monkeypatch, GOOD)
    monkeypatch.setattr(distributed, "_join", lambda *_: None)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: events.append("group"))
    # Whoever takes hold of the error, as a debugger does, keeps the frames of `fit`.
    kept: list[BaseException] = []
    with suppress(OSError), launched("cpu"):
        made = tiny_trainer(steps=2, parts={"callbacks": callbacks})
        made._runner._graphs["variant"] = _Graph(events)
        try:
            made.fit(tmp_path / "run", reporter=recorder)
        except OSError as error:
            kept.append(error)
            raise
    assert events == ["graph reset", "group"]
    assert not made._runner._graphs
    assert bool(kept) == bool(callbacks)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "variables",
    [
        {"RANK": "5", "WORLD_SIZE": "2"},
        {"RANK": "-1", "WORLD_SIZE": "2"},
        {"RANK": "1"},
        {"RANK": "0", "WORLD_SIZE": "2"},
    ],
)
def test_the_command_says_it_whichever_rank_it_takes_itself_for(
    variables, monkeypatch, tmp_path, capsys
):
    put(monkeypatch, variables)
    assert main(["train", "digits", "--device=cpu", f"--out={tmp_path / 'run'}"]) == 2
    assert "fastgan: error: the environment variable" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
