"""Quality over time: one data set, the same seconds, ways to train on it. `make bench-quality`.

    python -m bench.quality [--seconds 180] [--seeds 0 1 2] [--recipe digits] [--keep]

fused        fastgan as it is
reference    fastgan on the reference backend: the same engine over plain PyTorch formulas
tutorial     the loop of PyTorch's DCGAN tutorial over the same networks, run by torch.nn's layers
torchgan     TorchGAN's DCGAN by its own trainer; with --arms, where that package is installed

Each arm trains in a process of its own, with the recipe's losses, rates and batch (torchgan: its
documentation's), from the same seed. Snapshots of the generator's weights, not averaged, are kept
at fixed times; the clock stands while one is taken, and they are measured when training has ended,
all by one function.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from bench import peer_torchgan
from bench.harness import drafts, machine, results
from bench.harness.results import Row
from fastgan.engine import Callback, Trainer
from fastgan.engine.log import SilentReporter
from fastgan.engine.memory import keep_freed_memory
from fastgan.engine.sampling import sample_images
from fastgan.metrics import evaluate, get_network
from fastgan.nn.runner import unfused
from fastgan.ops import backend
from fastgan.recipes import get_recipe
from fastgan.recipes.run import build_trainer, override

ARMS = ("fused", "reference", "tutorial")
PEERS = ("torchgan",)
METRIC, METRICS = "kid", ("fid", "kid", "classes")
MARKS = (1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1.0)  # of the seconds
SAMPLES = 2000


class Ended(Exception):
    """The seconds are over."""


class Snapshots:
    """Copies of a generator's weights at the marks of a clock that runs only between steps."""

    def __init__(self, seconds: float) -> None:
        self.marks = [mark * seconds for mark in MARKS]
        self.taken: list[tuple[float, int, dict[str, Tensor]]] = []
        self.steps, self.paused = 0, 0.0
        self.started = time.perf_counter()

    def after_step(self, generator: nn.Module) -> None:
        """Count a step, take a snapshot if one is due. Ended after the last."""
        self.steps += 1
        now = time.perf_counter()
        passed = now - self.started - self.paused
        if passed < self.marks[len(self.taken)]:
            return
        weights = {k: v.detach().clone() for k, v in generator.state_dict().items()}
        while len(self.taken) < len(self.marks) and passed >= self.marks[len(self.taken)]:
            self.taken.append((passed, self.steps, weights))
        self.paused += time.perf_counter() - now
        if len(self.taken) == len(self.marks):
            raise Ended


class OfTrainer(Callback):
    def __init__(self, snapshots: Snapshots) -> None:
        self.snapshots = snapshots

    def on_step(self, trainer: Trainer) -> None:
        self.snapshots.after_step(trainer.generator)


def by_engine(trainer: Trainer, snapshots: Snapshots) -> None:
    trainer.callbacks = [OfTrainer(snapshots)]
    with tempfile.TemporaryDirectory() as folder:
        trainer.fit(folder, reporter=SilentReporter())


def by_tutorial(trainer: Trainer, snapshots: Snapshots) -> None:
    """As in pytorch.org's DCGAN tutorial: two passes of the discriminator, gradients of its weights
    also where the generator learns, images through a DataLoader."""
    config, g, d = trainer.config, trainer.generator, trainer.discriminator
    assert d is not None
    loader = DataLoader(
        TensorDataset(images_of(trainer)), config.batch_size, shuffle=True, drop_last=True
    )
    betas = (config.beta1, config.beta2)
    of_d = torch.optim.Adam(d.parameters(), config.lr_d, betas)
    of_g = torch.optim.Adam(g.parameters(), config.lr_g, betas)
    bce = F.binary_cross_entropy_with_logits
    with unfused():
        for (real,) in chain.from_iterable(repeat(loader)):
            d.zero_grad()
            logits = d(real)
            bce(logits, torch.ones_like(logits)).backward()
            fake = g(torch.randn(len(real), trainer.latent_dim))
            logits = d(fake.detach())
            bce(logits, torch.zeros_like(logits)).backward()
            of_d.step()
            g.zero_grad()
            logits = d(fake)
            bce(logits, torch.ones_like(logits)).backward()
            of_g.step()
            snapshots.after_step(g)


def by_torchgan(trainer: Trainer, snapshots: Snapshots) -> None:
    def after_step(generator: nn.Module) -> None:
        trainer.generator = generator
        snapshots.after_step(generator)

    peer_torchgan.train(images_of(trainer), trainer.config.batch_size, after_step)


def images_of(trainer: Trainer) -> Tensor:
    """The training set, float32 in [-1, 1]."""
    images: Tensor = trainer.dataset.images  # type: ignore[union-attr]
    return images.float().div_(127.5).sub_(1.0)


WAYS = {"tutorial": by_tutorial, "torchgan": by_torchgan}


def arm(name: str, recipe: str, seconds: float, seed: int) -> Iterator[Row]:
    """Train one arm and measure its snapshots."""
    keep_freed_memory()  # as `fastgan train` does; here for all arms
    chosen = override(
        get_recipe(recipe), seed=seed, steps=10**9, sample_every=0, checkpoint_every=0
    )
    trainer = build_trainer(chosen)
    snapshots = Snapshots(seconds)
    try:
        with backend("reference" if name == "reference" else "auto"):
            WAYS.get(name, by_engine)(trainer, snapshots)
    except Ended:
        pass
    generator, network = copy.deepcopy(trainer.generator).eval(), get_network("lenet")
    for passed, steps, weights in snapshots.taken:
        generator.load_state_dict(weights)
        fakes = sample_images(generator, SAMPLES).split(250)
        scores = evaluate(fakes, trainer.dataset, network, METRICS)  # type: ignore[arg-type]
        yield {
            "kind": "quality",
            "recipe": recipe,
            "arm": name,
            "seed": seed,
            "seconds": passed,
            "steps": steps,
            "batch": trainer.config.batch_size,
            "metric": METRIC,
            "samples": SAMPLES,
            "metrics": {score.metric: score.value for score in scores},
        }


@contextmanager
def _errors_in_words() -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"bench.quality: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--recipe", default="digits")
    parser.add_argument("--seconds", type=float, default=180.0, help="of training, for each arm")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=(*ARMS, *PEERS))
    parser.add_argument("--keep", action="store_true", help="results to bench/results/MACHINE")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.here:  # one arm, in this process: its rows are printed
        with _errors_in_words():
            for row in arm(chosen.arms[0], chosen.recipe, chosen.seconds, chosen.seeds[0]):
                print(json.dumps(row), flush=True)
        return 0
    path = results.FOLDER / (machine.slug() if chosen.keep else "local") / "quality.jsonl"
    draft = drafts.folder_of(path.parent) / path.name if chosen.keep else path
    known = kept(draft, chosen) or kept(path, chosen)
    for seed in chosen.seeds:
        for name in chosen.arms:
            known += started(name, chosen.recipe, chosen.seconds, seed)
            results.write(draft, machine.describe(), known)  # what was trained is kept at once
    told = [f"results: {path}"]
    if chosen.keep:
        told = list(drafts.take_place(path.parent, [path.stem], whole=True))
    print(*told, sep="\n")
    return 0


def kept(path: Path, chosen: argparse.Namespace) -> list[Row]:
    """The rows that stand there of other arms or seeds, trained for as long on this commit."""
    try:
        run, rows = results.read(path)
    except (OSError, ValueError):
        return []
    if run["commit"] != machine.describe()["commit"]:
        return []
    again = {(a, s) for a in chosen.arms for s in chosen.seeds}
    return [r for r in rows if (r["arm"], r["seed"]) not in again and r["recipe"] == chosen.recipe]


def started(name: str, recipe: str, seconds: float, seed: int) -> list[Row]:
    """An arm in a process of its own. Its errors are its own; RuntimeError where it failed."""
    command = [sys.executable, "-m", "bench.quality", "--here", f"--arms={name}"]
    command += [f"--recipe={recipe}", f"--seconds={seconds}", f"--seeds={seed}"]
    done = subprocess.run(command, cwd=machine.ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the arm {name} ended with status {done.returncode}")
    rows: list[Any] = [json.loads(line) for line in done.stdout.splitlines()]
    last = rows[-1]
    print(
        f"{name:10} seed {seed}: {last['steps']} steps in {last['seconds']:.0f} s, "
        + ", ".join(f"{k} {v:.4g}" for k, v in last["metrics"].items()),
        flush=True,
    )
    return rows


if __name__ == "__main__":
    sys.exit(main())
