"""What the engine costs: a step in Trainer.fit against the bare loop, and the time to the first.

The bare loop is the same step on the same machine: one resident batch, one noise, no log, no check,
no checkpoint. Rounds alternate; a ratio is taken within a round. As in ``fastgan train``, the
process keeps freed memory.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest
import torch

from bench.harness.session import Session
from bench.paired import interleave, own_clock, percentiles, ratio_interval
from fastgan.data import ImageDataset
from fastgan.engine import Batch, Callback, TrainConfig, Trainer
from fastgan.engine.log import SilentReporter
from fastgan.engine.memory import keep_freed_memory
from fastgan.engine.step import frozen
from fastgan.models import create_model

ROUNDS = 7


class Stop(Exception):
    """Ends a fit after its steps, before the last checkpoint and grid."""


class Stopwatch(Callback):
    """The time of so many steps after the first: what a run does once is not the loop's."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def on_step(self, trainer: Trainer) -> None:
        if not hasattr(self, "started"):
            self.started = time.perf_counter()
            return
        self.left -= 1
        if not self.left:
            self.seconds = time.perf_counter() - self.started
            raise Stop


def make(model: str, size: int, channels: int, batch: int, **width: int) -> Trainer:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (1024, channels, size, size), dtype=torch.uint8)
    shape = {"image_size": size, "channels": channels, **width}
    config = TrainConfig(
        steps=10**9, batch_size=batch, log_every=50, sample_every=0, checkpoint_every=0
    )
    return Trainer(
        create_model(f"{model}_generator", **shape),
        create_model(f"{model}_discriminator", **shape),
        ImageDataset(images=images),
        config,
    )


def in_trainer(trainer: Trainer, folder: Path, steps: int) -> float:
    """Seconds of ``steps`` steps of a run."""
    watch = Stopwatch(steps)
    trainer.callbacks = [watch]
    with pytest.raises(Stop):
        trainer.fit(folder, force=True, reporter=SilentReporter())
    return watch.seconds


def bare(trainer: Trainer, batch: Batch, steps: int) -> float:
    """The DCGAN step as one writes it by hand, with the average of the generator."""
    g, d, loss = trainer.generator, trainer.discriminator, trainer.gan.loss
    started = time.perf_counter()
    for _ in range(steps):
        fakes = g(batch.noise)
        trainer.optimizer_d.zero_grad()
        loss.discriminator(d(batch.images), d(fakes.detach())).backward()
        trainer.optimizer_d.step()
        trainer.optimizer_g.zero_grad()
        with frozen(d):
            loss.generator(d(fakes)).backward()
        trainer.optimizer_g.step()
        trainer.ema.update()
    return time.perf_counter() - started


@pytest.mark.parametrize(
    ("model", "size", "channels", "batch", "width", "steps"),
    [
        ("dcgan", 64, 3, 16, {"width": 64}, 10),
        ("dcgan", 28, 1, 64, {"width": 32}, 20),
        ("mlp", 28, 1, 64, {}, 200),
    ],
    ids=["DCGAN-64", "digits", "MLP"],
)
@pytest.mark.full
def test_loop_overhead(
    model: str,
    size: int,
    channels: int,
    batch: int,
    width: dict[str, int],
    steps: int,
    tmp_path: Path,
    suite: Session,
) -> None:
    keep_freed_memory()
    trainers = [make(model, size, channels, batch, **width) for _ in range(2)]
    images, _ = trainers[1].loader.batch(0)
    given = Batch(images, None, trainers[1]._draw_noise())
    trainers[1].ema.before(1)
    runs: dict[str, Callable[[], object]] = {
        "trainer": lambda: in_trainer(trainers[0], tmp_path / "run", steps) / steps,
        "bare": lambda: bare(trainers[1], given, steps) / steps,
    }
    times = interleave(runs, ROUNDS, warm_up=1, clock=own_clock)
    over = ratio_interval(times["trainer"], times["bare"])
    run = f"Trainer.fit, {model} {size}, batch {batch}"
    bare_step = percentiles(times["bare"])
    suite.add("engine", {"kind": "engine", "run": run, "bare": bare_step, "over_bare": list(over)})


@pytest.mark.full
def test_time_to_the_first_step(tmp_path: Path, suite: Session) -> None:
    """From the command to its first line of losses; the data are embedded, the device a CPU."""
    seconds = []
    command = [sys.executable, "-m", "fastgan", "train", "digits", "--steps=2", "--log-every=1"]
    for i in range(4):
        started = time.perf_counter()
        with subprocess.Popen(
            [*command, f"--out={tmp_path / str(i)}", "--device=cpu"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("step 1/2")
            seconds.append(time.perf_counter() - started)
    suite.add("engine", {"kind": "first step", "seconds": median(seconds[1:])})
