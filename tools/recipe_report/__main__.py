"""Train the recipes for their minutes, measure them, and keep the numbers and a picture of each.

    make recipes                                  # all; hours on two cores
    python -m tools.recipe_report --only vae,cdcgan     # some
    python -m tools.recipe_report --only vae --minutes 2
    python -m tools.recipe_report --only vae --trained  # measure the run that stands in --runs

Needs the full MNIST (`fastgan data fetch mnist`, or `examples/data/fetch.py mnist`), for
`dcgan-32`, `dcgan-64`, `dcgan-128`, `modern-64`, `cyclegan` and `style` the emoji
(`examples/data/fetch.py emoji` and `fluent-emoji`), for `few-shot` the faces (`fluent-faces`), for
`tile-gan` the levels (`sokoban`), for `vocoder` the `speech`, and `fastgan[metrics,efficientnet]`.
Results go to
docs/recipes.json and docs/recipes.md, pictures to docs/pictures/. The exit status is 1 if a goal is
missed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fastgan.data.fetch import cache_root
from fastgan.engine import find_checkpoint, load_generator, pictures, sample_images, save_grid
from fastgan.engine.grid import as_pictures, screen_scale
from fastgan.engine.texts import text_lines
from fastgan.metrics import Score
from fastgan.models import Translator
from fastgan.recipes.evaluation import (
    Evaluation,
    evaluate_checkpoint,
    held_out_spectrograms,
    held_out_triples,
)

from . import page
from .page import PICTURES, RESULTS, ROOT


@dataclass(frozen=True)
class Check:
    """A recipe, the minutes it may train, what is measured, and what has to be reached.

    Attributes:
        goals: the least value of a metric (of a score's name).
        limits: the largest one, of metrics that are distances.
    """

    recipe: str
    minutes: float
    metrics: tuple[str, ...] | None = ("fid", "classes", "prdc")
    """None: all that the recipe measures of items that are no images."""
    goals: tuple[tuple[str, float], ...] = ()
    limits: tuple[tuple[str, float], ...] = ()
    split: str = "train"
    flags: tuple[str, ...] = ()
    """Settings for few minutes on a CPU, in place of the recipe's own."""
    steps: int = 10_000_000
    """Updates that end the training before its minutes do: by default more than it makes."""
    data: str = "mnist"
    """A data set's name, or its folder in the cache of data sets."""
    data_b: str = ""
    """The second set of a recipe that takes two."""
    features: str = "lenet"
    samples: int = 5000
    reals: int | None = None
    before: tuple[str, ...] = ()
    """Settings of a training of half the minutes, whose weights this one starts from."""
    before_of: str = ""
    """The recipe of that training where it is another, whose generator alone is started from."""
    baseline: str = ""
    """What needs no training; `gain` is how many dB of PSNR the generator is above it. Of sounds
    "initial": `fall` is how many times the lesser of `mel` and `stft` has fallen. Of images started
    from another recipe's `sharper` is how many times as sharp they are as that one's."""


# As examples/data/fetch.py leaves them, where the cache of data sets is the usual one.
_USUAL_CACHE = "~/.cache/fastgan/data"
# LeNet knows grey digits only. So few images are compared by KID, which is unbiased. "is" is the
# Inception Score's formula over this network's classes; that of Inception's own needs its weights.
_RGB: dict[str, Any] = {
    "metrics": ("kid", "prdc"), "features": "efficientnet-lite0", "samples": 1000, "reals": 1000,
}  # fmt: skip
_OF_CODES = ("psnr", "ssim")
_RESTORED: dict[str, Any] = {
    "metrics": _OF_CODES, "split": "test", "data": "emoji-64", "reals": 60,
}  # fmt: skip
_OF_IMAGES = ("--held-out", "0.1", "--ema-decay", "0.99")
_FLAGS = "--batch-size 64 --lr-g 5e-4 --lr-d 5e-4 --beta1 0.5 --ema-decay 0.998"
_SMALL_BATCHES = tuple(f"{_FLAGS} --precision bfloat16".split())
CHECKS = (
    Check(
        "dcgan-28",
        10,
        goals=(("classes", 10), ("confident", 0.8)),
        flags=(*_SMALL_BATCHES, "--lr-schedule", "linear"),
        steps=7600,
    ),
    Check("dcgan-28-rgb", 3, flags=_SMALL_BATCHES, **_RGB),
    Check("dcgan-32", 2, flags=("--batch-size", "64"), data="emoji-64", **_RGB),
    Check("dcgan-64", 10, flags=("--batch-size", "64"), data="emoji-64", **_RGB),
    Check(
        "dcgan-128",
        4,
        flags=("--batch-size", "32", "--precision", "bfloat16"),
        data="fluent-emoji-256",
        **(_RGB | {"metrics": ("kid", "is", "prdc")}),
    ),
    Check(
        "modern-64",
        60,
        goals=(("recall", 0.2),),
        limits=(("kid", 0.05),),
        flags=("--precision", "bfloat16"),
        data="emoji-64",
        **_RGB,
    ),
    Check("mlp-gan", 3),
    Check("lsgan", 3),
    Check("wgan-gp", 3),
    Check("sngan", 3),
    Check("sagan", 3),
    Check("r3gan", 5),
    Check("cdcgan", 10, goals=(("accuracy", 0.9),)),
    Check("acgan", 3),
    Check("projection", 3),
    Check("autoencoder", 10, metrics=_OF_CODES, goals=(("psnr", 20),), split="test"),
    Check("vae", 10, metrics=(*_OF_CODES, "elbo"), goals=(("elbo", -105),), split="test"),
    Check("vae-gan", 3, metrics=(*_OF_CODES,), split="test"),
    Check(
        "few-shot",
        15,
        flags=("--batch-size", "4", "--lr-g", "5e-4", "--lr-d", "5e-4", "--ema-decay", "0.99"),
        data="fluent-faces-256",
        **(_RGB | {"metrics": ("fid", "kid", "nearest"), "samples": 200, "reals": None}),
    ),
    Check("tile-gan", 12, metrics=None, data="sokoban-microban", samples=1000),
    Check("volume-gan", 8, metrics=None, data="showers", samples=1000),
    Check(
        "video-gan",
        22,
        metrics=None,
        flags=("--batch-size", "16", "--count", "2048"),
        data="moving-digits",
        samples=1000,
    ),
    Check("text-gan", 22, metrics=None, data="jargon"),
    Check("text-rnn", 4, metrics=None, data="jargon"),
    Check("wavegan", 25, metrics=None, data="drums"),
    Check(
        "vocoder",
        15,
        metrics=None,
        goals=(("fall", 3),),
        data="speech",
        samples=500,
        before=("--adversarial-weight", "0", "--lr-g", "3e-3"),
        baseline="initial",
    ),
    Check(
        "super-resolution",
        8,
        goals=(("gain", 0.5),),
        flags=(*_OF_IMAGES, "--lr-g", "1e-3"),
        baseline="bicubic",
        **_RESTORED,
    ),
    Check(
        "srgan",
        16,
        goals=(("gain", 0.5), ("sharper", 1.1)),
        flags=_OF_IMAGES,
        before=("--lr-g", "1e-3"),
        before_of="super-resolution",
        baseline="bicubic",
        **_RESTORED,
    ),
    Check(
        "inpainting",
        8,
        goals=(("gain", 2),),
        flags=(*_OF_IMAGES, "--lr-g", "5e-4"),
        baseline="mean_fill",
        **_RESTORED,
    ),
    Check(
        "pix2pix",
        8,
        goals=(("gain", 0),),
        flags=(*_OF_IMAGES, "--lr-g", "5e-4"),
        baseline="mean_colour",
        **_RESTORED,
    ),
    Check(
        "cyclegan",
        12,
        metrics=None,
        goals=(("fooled_a", 0.8), ("fooled_b", 0.8)),
        split="test",
        flags=(*_OF_IMAGES, "--image-size", "32", "--lr-g", "5e-4", "--lr-d", "5e-4"),
        data="emoji-64",
        data_b="fluent-emoji-256",
    ),
    Check("style", 6, metrics=None, split="test", flags=_OF_IMAGES[:2], data="emoji-64"),
)


def _source(data: str, cache: str | Path) -> str:
    made = "mnist", "showers", "moving-digits"
    return data if data in made else f"{cache}/{data}"


def train(check: Check, minutes: float, out: Path) -> float:
    """Train for so long in a process of its own, or in two; returns the seconds."""
    if check.before:
        first = replace(check, flags=(*check.flags, *check.before), before=())
        first = replace(first, recipe=check.before_of or check.recipe)
        taken = train(first, minutes / 2, _before(out))
        second = (*check.flags, "--init-from", str(_before(out)))
        second += ("--init-networks", "generator") if check.before_of else ()
        return taken + train(replace(check, flags=second, before=()), minutes / 2, out)
    log_path = out.with_name(f"{out.name}.log")
    command = [
        sys.executable, "-m", "fastgan", "train", check.recipe,
        "--data", _source(check.data, cache_root()), "--steps", str(check.steps),
        "--checkpoint-every", "0", "--sample-every", "2000", "--log-every", "200",
        "--device", "cpu", "--out", str(out), "--force", *check.flags,
    ]  # fmt: skip
    if check.data_b:
        command += ["--data-b", _source(check.data_b, cache_root())]
    started = time.monotonic()
    with log_path.open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            status = process.wait(timeout=60 * minutes)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            status = process.wait()
    # A run that a signal ended has saved everything.
    if status not in (0, 128 + signal.SIGINT):
        raise SystemExit(f"{' '.join(command)} ended with {status}: see {log_path}")
    return time.monotonic() - started


def _before(run: Path) -> Path:
    return run.with_name(f"{run.name}-before")


def facts(check: Check, run: Path, minutes: float) -> dict[str, Any]:
    """How the run came about."""
    manifest = find_checkpoint(run).manifest
    found: dict[str, Any] = {
        "minutes": minutes,
        "steps": manifest["step"],
        "batch_size": manifest["config"]["batch_size"],
        "data": _source(check.data, _USUAL_CACHE),
        "flags": list(check.flags),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    if check.baseline:
        found["baseline"] = check.baseline
    if check.data_b:
        found["data_b"] = _source(check.data_b, _USUAL_CACHE)
    if check.before:
        steps = find_checkpoint(_before(run)).manifest["step"]
        found["before"] = {"flags": list(check.before), "steps": steps}
        if check.before_of:
            found["before"]["recipe"] = check.before_of
    return found


def scores_of(check: Check, run: Path) -> list[Score]:
    """What is measured of a run."""
    if check.metrics == ():
        return []
    chosen = Evaluation(
        metrics=check.metrics,
        split=check.split,  # type: ignore[arg-type]
        samples=check.samples,
        reals=check.reals,
        features=check.features,
    )
    return evaluate_checkpoint(run, chosen)


def measure(check: Check, run: Path) -> dict[str, Any]:
    """The scores of a run, and whether each goal is reached."""
    scores = scores_of(check, run)
    values = {score.metric: score.value for score in scores}
    if check.before_of:
        started = {score.metric: score.value for score in scores_of(check, _before(run))}
        own = [name for name in values if f"{name}_{check.baseline}" in values]
        values |= {f"{name}_started_from": started[name] for name in own}
        values["sharper"] = values["sharpness"] / values["sharpness_started_from"]
    if check.baseline == "initial":
        values["fall"] = min(values[f"{name}_initial"] / values[name] for name in ("mel", "stft"))
    elif check.baseline:
        values["gain"] = values["psnr"] - values[f"psnr_{check.baseline}"]
    # What all of them share: counts and options of one metric are the defaults of `fastgan eval`.
    setting = dict(scores[0].setting) if scores else {}
    if "data" in setting:
        setting["data"] = setting["data"].replace(str(cache_root()), _USUAL_CACHE)
    for score in scores:
        print(f"  {score}")
    goals = {
        name: {"least": least, "reached": values[name] >= least} for name, least in check.goals
    }
    for name, most in check.limits:
        goals[name] = {"most": most, "reached": values[name] <= most}
    return {"scores": values, "setting": setting, "goals": goals}


def picture(check: Check, run: Path) -> dict[str, Any]:
    """Makes the picture of a run; what is written instead of one, of a generator of texts."""
    generator: Any = load_generator(run)
    if hasattr(generator, "characters"):
        return {"samples": text_lines(sample_images(generator, 12), generator.characters)}
    if getattr(generator, "num_classes", 0):
        images, columns = pictures.by_class(generator, 10)
    elif hasattr(generator, "mel"):
        images, columns = held_out_spectrograms(run, 5, 8192)
    elif isinstance(generator, Translator):
        images, columns = pictures.triples(*held_out_triples(run, 24 if check.data_b else 12))
    elif "psnr" in (check.metrics or ()):
        from fastgan.data import load

        reals = load("mnist", split="test", limit=32).images.float() / 127.5 - 1
        images, columns = pictures.reconstruction_pairs(generator, reals)
    else:
        count = {"video-gan": 16, "few-shot": 20, "modern-64": 20}.get(check.recipe, 60)
        items = sample_images(generator, count)
        images, columns = as_pictures(generator, items), 1 if len(items) == 16 else 10
    save_grid(images, PICTURES / f"{check.recipe}.png", columns, scale=screen_scale(images))
    return {}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="names, with commas between")
    parser.add_argument("--minutes", type=float, default=None, help="in place of each one's own")
    parser.add_argument("--trained", action="store_true", help="measure runs that stand in --runs")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "recipes")
    chosen = parser.parse_args()
    wanted = [name for name in chosen.only.split(",") if name]
    if unknown := set(wanted) - {check.recipe for check in CHECKS}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    chosen.runs.mkdir(parents=True, exist_ok=True)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    missed = []
    for check in CHECKS:
        if wanted and check.recipe not in wanted:
            continue
        minutes = chosen.minutes or check.minutes
        print(f"{check.recipe}: {minutes:g} minutes", flush=True)
        run = chosen.runs / check.recipe
        if not chosen.trained:
            minutes = round(train(check, minutes, run) / 60, 1)
        found = facts(check, run, minutes) | measure(check, run) | picture(check, run)
        missed += [f"{check.recipe} {n}" for n, g in found["goals"].items() if not g["reached"]]
        results[check.recipe] = found
        order = [c.recipe for c in CHECKS if c.recipe in results]
        written = json.dumps({name: results[name] for name in order}, indent=1)
        RESULTS.write_text(written + "\n", encoding="utf-8")
        page.main()
    if missed:
        print(f"missed: {', '.join(missed)}")
    return 1 if missed else 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
