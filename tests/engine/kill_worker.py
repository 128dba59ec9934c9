"""Kills a short run at random moments: `kill_worker.py FOLDER KILLS [SEED]`.

The run is resumed after each kill until it has finished, then started anew in another folder, until
KILLS kills were made; every finished run must hold the very bits of one that was left alone. Says
where the kills fell and exits with 1 if a run differs.

Runs are forked from this process, which only has imported what they need: a life costs no start-up.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

import fastgan.recipes
from fastgan.engine import Checkpoint, find_checkpoint
from fastgan.engine.log import SilentReporter
from fastgan.engine.run_folder import read_run

SETTINGS: dict[str, Any] = {
    "steps": 16,
    "batch_size": 4,
    "limit": 64,
    "checkpoint_every": 2,
    "keep_last": 2,
    "log_every": 1,
    "sample_every": 5,
    "sample_count": 4,
    "lr_schedule": "cosine",
    "augment": "ada",
    "device": "cpu",
}


def start(out: Path) -> int:
    """Start or resume the run in a process of its own; returns its id."""
    child = os.fork()
    if child:
        return child
    try:
        torch.set_num_threads(1)
        fastgan.recipes.train(
            "mlp-gan", out=out, resume=True, reporter=SilentReporter(), **SETTINGS
        )
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        os._exit(1)


def ended(child: int, seconds: float) -> int | None:
    """The exit status of a process that ends by itself within so many seconds, else None."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def differing(one: Checkpoint, other: Checkpoint) -> list[str]:
    names = [file.removesuffix(".safetensors") for file in one.manifest["files"]]
    return [
        f"{name}.{key}"
        for name in names
        for key, value in one.tensors(name).items()
        if not torch.equal(value, other.tensors(name)[key])
    ]


def main(folder: Path, kills: int, seed: int) -> int:
    moments = random.Random(seed)
    began = time.monotonic()
    if ended(start(folder / "whole"), 300) != 0:
        return 1
    life = time.monotonic() - began
    whole = find_checkpoint(folder / "whole")
    made, runs, fell = 0, 0, Counter[str]()
    while made < kills or not fell["finished"]:
        runs += 1
        out = folder / f"run{runs}"
        while True:
            child = start(out)
            status = ended(child, moments.uniform(0, life) if made < kills else 300)
            if status is not None:
                break
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            made += 1
            fell["while saving" if list(out.glob("checkpoints/.partial-*")) else "elsewhere"] += 1
            if (read_run(out) or {}).get("finished"):
                status = 0
                break
        if status != 0:
            return 1
        fell["finished"] += 1
        if wrong := differing(whole, find_checkpoint(out)):
            print(f"run {runs} differs after {made} kills: {wrong}")
            return 1
        if len((out / "metrics.jsonl").read_text().splitlines()) != SETTINGS["steps"]:
            print(f"run {runs}: the log does not have a line a step")
            return 1
    print(f"{made} kills in {runs} runs, all equal: {dict(fell)}; a whole run takes {life:.1f} s")
    return 0


if __name__ == "__main__":
    numbers = [int(a) for a in sys.argv[2:]]
    raise SystemExit(main(Path(sys.argv[1]), numbers[0], numbers[1] if len(numbers) > 1 else 0))
