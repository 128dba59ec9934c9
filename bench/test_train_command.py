"""What `fastgan train` costs beside its step, and how fast images come from disk.

The command trains DCGAN-64 at batch 64 on a folder of PNG files, held in memory and streamed, in a
process of its own. Its time is read off its log, from the first log point to the last: data,
logging and the loop are in it, the start is not. Beside it stands the bare loop: the same step on
one resident batch, with nothing around it, in this process. Rounds alternate.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bench.harness.session import Session
from bench.paired import interleave, own_clock, percentiles, ratio_interval
from bench.test_engine import bare
from fastgan.data import StreamLoader, load, stream
from fastgan.engine import Batch, Trainer
from fastgan.engine.memory import keep_freed_memory
from fastgan.models import create_model
from fastgan.recipes import get_recipe

ROUNDS = 4
STEPS, LOG_EVERY = 25, 5
IMAGES = 2048


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


def command(photos: Path, out: Path, loading: str) -> float:
    """Seconds a step of `fastgan train`."""
    arguments = [
        "dcgan-64", f"--data={photos}", f"--loading={loading}", f"--out={out}", "--force",
        f"--steps={STEPS}", f"--log-every={LOG_EVERY}", "--batch-size=64", "--sample-every=0",
        "--checkpoint-every=0", "--device=cpu",
    ]  # fmt: skip
    run = [sys.executable, "-m", "fastgan", "train", *arguments]
    subprocess.run(run, check=True, capture_output=True)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    first, last = rows[0], rows[-1]
    return float((last["seconds"] - first["seconds"]) / (last["step"] - first["step"]))


def by_hand(photos: Path) -> Callable[[], float]:
    """Seconds a step of the same networks in a loop that does nothing else."""
    recipe = get_recipe("dcgan-64")
    assert recipe.discriminator is not None
    generator, discriminator = (
        create_model(spec.name, **spec.arguments)
        for spec in (recipe.generator, recipe.discriminator)
    )
    config = replace(recipe.train, batch_size=64, device="cpu")
    trainer = Trainer(generator, discriminator, load(photos), config)
    images, _ = trainer.loader.batch(0)
    given = Batch(images, None, trainer._draw_noise())
    assert trainer.ema is not None
    trainer.ema.before(1)
    bare(trainer, given, LOG_EVERY)
    return lambda: bare(trainer, given, STEPS - LOG_EVERY) / (STEPS - LOG_EVERY)


@pytest.mark.full
def test_train_command(photos: Path, tmp_path: Path, suite: Session) -> None:
    keep_freed_memory()
    ways: dict[str, Callable[[], object]] = {
        "bare loop": by_hand(photos),
        "resident": lambda: command(photos, tmp_path / "resident", "resident"),
        "stream": lambda: command(photos, tmp_path / "stream", "stream"),
    }
    times = interleave(ways, ROUNDS, warm_up=0, clock=own_clock)
    for name in ("resident", "stream"):
        cost = ratio_interval(times[name], times["bare loop"])
        row = {"bare": percentiles(times["bare loop"]), "over_bare": list(cost)}
        suite.add("engine", {"kind": "engine", "run": f"fastgan train dcgan-64, {name}", **row})


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
