"""What a process of a run on GPUs learns of the others; here their hearts beat by gloo alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from fastgan.engine import DistributedGroup, LostRankError, distributed, heartbeat, launched

LOST = "another process of this run has ended or cannot be reached"


class _Quick(heartbeat.Heartbeat):
    INTERVAL, GRACE = 0.01, 0.3


class _Pair:
    """In place of gloo: two threads meet, and a broken meeting is an error, as of a lost peer."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2)
        self.said: dict[int, int] = {}

    def all_reduce(self, state: Tensor, operation: object, group: int) -> None:
        self.said[group] = int(state)
        self.barrier.wait()
        state.fill_(min(self.said.values()))
        self.barrier.wait()


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    codes: list[int] = []
    monkeypatch.setattr(heartbeat.os, "_exit", codes.append)
    return codes


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch, exits: list[int]) -> Iterator[_Pair]:
    made, numbers = _Pair(), iter(range(2))
    monkeypatch.setattr(dist, "new_group", lambda **_: next(numbers))
    monkeypatch.setattr(dist, "all_reduce", made.all_reduce)
    yield made
    made.barrier.abort()


def wait_until_lost(beat: heartbeat.Heartbeat) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        beat.require_all()
        time.sleep(0.01)


@pytest.mark.timeout(60)
def test_hearts_that_end_together_end_in_peace(pair, exits):
    first, second = _Quick(), _Quick()
    first._end(1)
    time.sleep(0.1)
    assert first.is_alive()  # one that ends waits for the other
    second.stop()
    first.stop()
    first.require_all()
    assert not exits


@pytest.mark.timeout(60)
def test_a_process_that_goes_on_is_told_of_a_lost_one(pair, exits):
    first, second = _Quick(), _Quick()
    first.require_all()
    pair.barrier.abort()
    with pytest.raises(LostRankError, match=f"{LOST} .*; resume continues from the newest"):
        wait_until_lost(first)
    first.fail()
    second.fail()
    assert not exits


@pytest.mark.timeout(60)
def test_a_process_that_waits_for_the_device_ends(pair, exits, capfd):
    """Its main thread cannot ask while it waits for a collective that nobody else joins."""
    first, second = _Quick(), _Quick()
    pair.barrier.abort()
    second.fail()
    first.join()
    assert exits == [1]
    assert f"fastgan: error: {LOST}" in capfd.readouterr().err


@pytest.mark.timeout(60)
def test_the_others_are_told_of_a_process_that_fails(pair, exits):
    first, second = _Quick(), _Quick()
    second.fail()
    assert not second.is_alive()
    second.require_all()
    with pytest.raises(LostRankError, match=r"\(it has failed\)"):
        wait_until_lost(first)
    first.fail()
    assert not exits


def test_tensors_travel_by_nccl_and_objects_by_gloo(monkeypatch):
    made = {}
    monkeypatch.setattr(dist, "rendezvous", lambda _: iter([(dist.HashStore(), 1, 2)]))
    monkeypatch.setattr(dist, "init_process_group", lambda b, **given: made.update(given, b=b))
    distributed._join(torch.device("cuda", 1))
    assert (made["b"], made["device_id"]) == ("cpu:gloo,cuda:nccl", torch.device("cuda", 1))
    distributed._join(None)
    assert (made["b"], made["device_id"]) == ("gloo", None)


def worker(rank: int) -> None:
    """One process, as on GPUs but for its tensors, which travel by gloo; the second is killed."""
    distributed.Heartbeat = _Quick
    torch.cuda.set_device = lambda _: None
    distributed.local_device = lambda: rank
    join = distributed._join
    distributed._join = lambda _: join(None)
    with launched("cuda"):
        group = DistributedGroup.current()
        group.collect(rank)
        if rank:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(300)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_process_that_is_killed_ends_the_others(free_port: str) -> None:
    together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port}
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank)],
            env={**os.environ, **together, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=250)[1] for process in workers]
    finally:
        for process in workers:
            process.kill()
    assert [process.returncode for process in workers] == [1, -signal.SIGKILL], errors
    assert f"fastgan: error: {LOST}" in errors[0]


if __name__ == "__main__":
    worker(int(sys.argv[1]))
