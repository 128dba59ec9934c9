"""What `fastgan train` costs beside its step, when its first comes, and how fast images come from
disk.

The command trains in a process of its own: DCGAN-64 at batch 64 on a folder of PNG files, held in
memory and streamed, and two small networks on the embedded digits. Its time is read off its log,
from the first log point to the last: data, logging and the loop are in it, the start is not. Beside
it stands the bare loop: the same step on one resident batch, with nothing around it, in this
process. Rounds alternate. As in the command, the process keeps freed memory.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bench.harness.session import Session
from bench.paired import interleave, own_clock, percentiles, ratio_interval
from fastgan.data import StreamLoader, load, stream
from fastgan.engine import Batch, Trainer
from fastgan.engine.memory import keep_freed_memory
from fastgan.engine.step import frozen
from fastgan.recipes import build_trainer, get_recipe, override

ROUNDS = 4
IMAGES, BATCH = 2048, 64
LOGGED = 5  # how often a run logs
TRAIN = [sys.executable, "-m", "fastgan", "train"]


def write_photos(folder: Path, count: int, size: int, suffix: str) -> None:
    """Smooth random pictures, which compress as photographs do."""
    random = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8))
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(folder / f"{i:05d}{suffix}")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    write_photos(folder, IMAGES, 64, ".png")
    return folder


def command(recipe: str, steps: int, out: Path, data: list[str]) -> float:
    """Seconds a step of `fastgan train`."""
    arguments = [
        recipe, *data, f"--out={out}", "--force", f"--steps={steps}",
        f"--log-every={steps // LOGGED}", f"--batch-size={BATCH}", "--sample-every=0",
        "--checkpoint-every=0", "--device=cpu",
    ]  # fmt: skip
    subprocess.run([*TRAIN, *arguments], check=True, capture_output=True)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    first, last = rows[0], rows[-1]
    return float((last["seconds"] - first["seconds"]) / (last["step"] - first["step"]))


def bare(trainer: Trainer, batch: Batch, steps: int) -> float:
    """Seconds a step, as one writes it by hand, with the average of the generator."""
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
    return (time.perf_counter() - started) / steps


def by_hand(recipe: str, steps: int, photos: Path | None) -> Callable[[], float]:
    """Seconds a step of the same networks in a loop that does nothing else."""
    chosen = override(get_recipe(recipe), batch_size=BATCH, device="cpu")
    trainer = build_trainer(chosen, load(photos) if photos else None)
    images, _ = trainer.loader.batch(0)
    given = Batch(images, None, trainer._draw_noise())
    assert trainer.ema is not None
    trainer.ema.before(1)
    bare(trainer, given, steps // LOGGED)
    return lambda: bare(trainer, given, steps - steps // LOGGED)


@pytest.mark.parametrize(
    ("recipe", "steps", "loadings"),
    [("dcgan-64", 25, ["resident", "stream"]), ("digits", 100, []), ("mlp-gan", 1000, [])],
    ids=["dcgan-64", "digits", "mlp-gan"],
)
@pytest.mark.full
def test_train_command(
    recipe: str, steps: int, loadings: list[str], photos: Path, tmp_path: Path, suite: Session
) -> None:
    keep_freed_memory()
    data = {f"{recipe}, {how}": [f"--data={photos}", f"--loading={how}"] for how in loadings}
    ways: dict[str, Callable[[], object]] = {
        name: lambda given=given: command(recipe, steps, tmp_path / "run", given)
        for name, given in (data or {recipe: []}).items()
    }
    ways["bare loop"] = by_hand(recipe, steps, photos if data else None)
    times = interleave(ways, ROUNDS, warm_up=0, clock=own_clock)
    bare_step = times.pop("bare loop")
    for name, seconds in times.items():
        cost = ratio_interval(seconds, bare_step)
        row = {"bare": percentiles(bare_step), "over_bare": list(cost)}
        suite.add("engine", {"kind": "engine", "run": f"fastgan train {name}", **row})


@pytest.mark.full
def test_time_to_the_first_step(tmp_path: Path, suite: Session) -> None:
    """From the command to its first line of losses; the data are embedded, the device a CPU."""
    seconds = []
    for i in range(4):
        started = time.perf_counter()
        with subprocess.Popen(
            [*TRAIN, "digits", "--steps=2", "--log-every=1", f"--out={tmp_path / str(i)}",
             "--device=cpu"],
            stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        ) as process:  # fmt: skip
            assert process.stdout is not None
            assert process.stdout.readline().startswith("step 1/2")
            seconds.append(time.perf_counter() - started)
    suite.add("engine", {"kind": "first step", "seconds": median(seconds[1:])})


class Pictures(Dataset[Tensor]):
    """The folder as one usually reads it."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.iterdir())

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.files[index]) as image:
            pixels = torch.from_numpy(np.array(image.convert("RGB")))
        return pixels.permute(2, 0, 1).float().div_(127.5).sub_(1.0)


@pytest.mark.full
@pytest.mark.parametrize(
    ("count", "size", "suffix"),
    [(2048, 64, ".png"), (512, 256, ".jpg")],
    ids=["64 PNG", "256 JPEG"],
)
def test_images_from_disk(
    count: int, size: int, suffix: str, tmp_path: Path, suite: Session
) -> None:
    """An epoch in batches of 64 by our two threads, and by a DataLoader's two processes."""
    write_photos(tmp_path, count, size, suffix)
    loader = StreamLoader(stream(tmp_path, workers=2), 64, seed=0, device="cpu")
    usual = DataLoader(
        Pictures(tmp_path), 64, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True
    )
    epochs, steps = itertools.count(), count // 64

    def ours() -> None:
        first = next(epochs) * steps
        for step in range(first, first + steps):
            loader.batch(step)

    def theirs() -> None:
        for _ in usual:
            pass

    times = interleave({"stream": ours, "DataLoader": theirs}, rounds=9)
    faster = ratio_interval(times["DataLoader"], times["stream"])
    what = f"images a second from {size}×{size} {suffix} files, over a DataLoader's"
    suite.add("program", {"kind": "program", "what": what, "value": faster.value, "unit": "×"})
