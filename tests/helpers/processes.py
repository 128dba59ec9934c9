"""A test's file run as two processes of a gloo group."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

HELPERS = Path(__file__).resolve().parent
WORLD = 2


def in_two_processes(script: str, folder: Path) -> list[Any]:
    """What `worker` wrote in each; a process that hangs fails the test."""
    path = os.pathsep.join([str(HELPERS), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    workers = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(folder)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(WORLD)
    ]  # fmt: skip
    try:
        outputs = [worker.communicate(timeout=120)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [w.returncode for w in workers] == [0] * WORLD, "\n".join(outputs)
    return [torch.load(folder / f"result{rank}.pt") for rank in range(WORLD)]


def worker(compute: Callable[[int], Any]) -> None:
    """One of the processes: `compute(rank)` goes to the test."""
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=WORLD,
        timeout=timedelta(seconds=60),
    )
    torch.save(compute(rank), folder / f"result{rank}.pt")
    gc.collect()  # a DistributedDataParallel must not outlive its group
    dist.destroy_process_group()
