"""What samples of a conditional GAN add to few labels: `python -m tools.augment_report`.

    python -m tools.augment_report --sets mnist      # 15 small GANs, 75 classifiers
    python -m tools.augment_report --page            # write the page from the results that stand

Needs the full MNIST and Fashion-MNIST (`examples/data/fetch.py mnist`, `fashion-mnist`). Results
go to docs/augment.json as soon as there are some, and into docs/applications/augment.md.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import math
import tempfile
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.harness.page import filled
from fastgan.cli import main as fastgan
from fastgan.data import ImageDataset, load
from fastgan.engine.log import SilentReporter
from fastgan.recipes import get_recipe, train

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "augment.json"
PAGE = ROOT / "docs" / "applications" / "augment.md"

# Of garments the mirror image is another garment of the class; of digits it is none.
MIRRORED = {"mnist": False, "fashion-mnist": True}
COUNTS, SEEDS = (5, 10, 20), 5
WAYS = {
    "none": "labelled images alone",
    "classical": "shifted, turned, scaled",
    "samples": "with samples",
    "filtered": "with filtered samples",
    "both": "shifted, turned, scaled, with filtered samples",
}
GAN: dict[str, Any] = {
    "steps": 200,
    "batch_size": 32,
    "lr_g": 1e-3,
    "lr_d": 1e-3,
    "joint_batch": True,
    "ema_decay": 0.98,
    "sample_every": 0,
    "checkpoint_every": 0,
    "device": "cpu",
}
WIDTH, PER_CLASS, REJECTION = 16, 25, 0.5
UPDATES, BATCH = 100, 32
TESTED = 2500  # of the 10,000 test images, evenly spaced


def few(data: ImageDataset, count: int, seed: int) -> ImageDataset:
    """So many images of each class, drawn at random. ValueError for a class that has fewer."""
    assert data.labels is not None
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    labels = data.labels[order]
    chosen = []
    for label in range(len(data.classes or ()) or int(labels.max()) + 1):
        rows = order[labels == label]
        if len(rows) < count:
            raise ValueError(
                f"{data.name}: class {label} has {len(rows)} labelled images, and {count} are "
                "asked for: leave the class out, or label more"
            )
        chosen.append(rows[:count])
    return data.select(torch.cat(chosen))


def classifier() -> nn.Sequential:
    """Images [N, 1, 28, 28] in [-1, 1] → logits [N, 10]; 36,000 weights."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Dropout(0.3), nn.Linear(32 * 7 * 7, 20), nn.ReLU(), nn.Linear(20, 10),
    )  # fmt: skip


def moved(images: Tensor, mirrored: bool) -> Tensor:
    """Each image turned by up to 15°, scaled by 0.9 to 1.1 and shifted by up to 2 pixels."""
    count = len(images)
    angle = (torch.rand(count) * 2 - 1) * (math.pi / 12)
    scale = 0.9 + 0.2 * torch.rand(count)
    flip = torch.where(torch.rand(count) < 0.5, -1.0, 1.0) if mirrored else torch.ones(count)
    shift = (torch.rand(count, 2) * 2 - 1) * (4 / images.shape[-1])
    cos, sin = angle.cos() * scale, angle.sin() * scale
    rows = [torch.stack(row, 1) for row in ((cos * flip, -sin, shift[:, 0]),
                                            (sin * flip, cos, shift[:, 1]))]  # fmt: skip
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    # Samples from outside are background, -1.
    return F.grid_sample(images + 1, grid, align_corners=False) - 1


def accuracy(
    labelled: ImageDataset,
    more: ImageDataset | None,
    test: ImageDataset,
    *,
    classical: bool,
    mirrored: bool,
    seed: int,
) -> float:
    """Of a classifier trained on batches of labelled images and, if there are, as many of others.

    Every way has the same number of updates and of labelled images in each.
    """
    torch.manual_seed(seed)
    model = classifier()
    optimizer = torch.optim.Adam(model.parameters(), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, UPDATES)
    for _ in range(UPDATES):
        images, labels = _drawn(labelled)
        images = moved(images, mirrored) if classical else images
        if more is not None:
            others, theirs = _drawn(more)
            images, labels = torch.cat([images, others]), torch.cat([labels, theirs])
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        schedule.step()
    model.eval()
    assert test.labels is not None
    with torch.no_grad():
        found = torch.cat([model(_signed(part)).argmax(1) for part in test.images.split(2000)])
    return (found == test.labels).double().mean().item()


def _drawn(data: ImageDataset) -> tuple[Tensor, Tensor]:
    assert data.labels is not None
    rows = torch.randint(0, len(data), (BATCH,))
    return _signed(data.images[rows]), data.labels[rows]


def _signed(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


def samples_of(labelled: ImageDataset, seed: int, folder: Path) -> dict[str, ImageDataset]:
    """What `fastgan augment` writes of a cdcgan that has seen the labelled images and no other."""
    recipe = get_recipe("cdcgan")
    small = {n: getattr(recipe, n).given({"width": WIDTH}) for n in ("generator", "discriminator")}
    recipe = dataclasses.replace(recipe, **small)
    run = folder / "run"
    train(recipe, out=run, data=labelled, seed=seed, reporter=SilentReporter(), **GAN)
    found = {}
    for name, flags in {"samples": [], "filtered": ["--rejection", str(REJECTION)]}.items():
        out = folder / name
        command = ["augment", str(run), "--per-class", str(PER_CLASS), "--out", str(out), *flags]
        with contextlib.redirect_stdout(io.StringIO()):
            if status := fastgan(command):
                raise SystemExit(f"fastgan {' '.join(command)} ended with {status}")
        found[name] = load(out)
    return found


def compared(name: str, count: int, seed: int) -> dict[str, float]:
    """The accuracy of each way on the test images of a set, from so many labels a class."""
    data, test = load(name), load(name, split="test", limit=TESTED)
    labelled = few(data, count, seed)
    with tempfile.TemporaryDirectory() as folder:
        made = samples_of(labelled, seed, Path(folder))
    others = {"samples": made["samples"], "filtered": made["filtered"], "both": made["filtered"]}
    return {
        way: accuracy(
            labelled,
            others.get(way),
            test,
            classical=way in ("classical", "both"),
            mirrored=MIRRORED[name],
            seed=seed,
        )
        for way in WAYS
    }


def render(results: dict[str, Any]) -> str:
    """A table for each set: mean and deviation over seeds, in percent, the best of a row bold."""
    lines = []
    for name, by_count in results.items():
        lines += [f"`{name}`, accuracy on {TESTED:,} of its test images in percent:", ""]
        lines += [
            "| labels a class | seeds | " + " | ".join(WAYS.values()) + " |",
            "|" + "---|" * (len(WAYS) + 2),
        ]
        for count, by_seed in by_count.items():
            columns = [[100 * found[way] for found in by_seed.values()] for way in WAYS]
            best = max(map(fmean, columns))
            cells = [
                f"{'**' * (fmean(c) == best)}{fmean(c):.1f}{'**' * (fmean(c) == best)}"
                + (f" ± {stdev(c):.1f}" if len(c) > 1 else "")
                for c in columns
            ]
            lines.append(f"| {count} | {len(by_seed)} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def renew(text: str, results: dict[str, Any]) -> str:
    """The page with its tables made anew."""
    return filled(text, "made by tools/augment_report", render(results).rstrip())


def read() -> dict[str, Any]:
    """The results that stand: accuracies by way, seed, count and set."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def keep(name: str, count: int, seed: int, found: dict[str, float]) -> None:
    """Add to the results as they stand now: another process may measure another set."""
    print(name, count, seed, found, flush=True)
    results = read()
    results.setdefault(name, {}).setdefault(str(count), {})[str(seed)] = found
    results = {name: results[name] for name in MIRRORED if name in results}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sets", default=",".join(MIRRORED), help="names, with commas between")
    parser.add_argument("--page", action="store_true", help="of the results that stand")
    chosen = parser.parse_args()
    for seed in range(0 if chosen.page else SEEDS):
        for name in chosen.sets.split(","):
            for count in COUNTS:
                if str(seed) not in read().get(name, {}).get(str(count), {}):
                    keep(name, count, seed, compared(name, count, seed))
    PAGE.write_text(renew(PAGE.read_text(encoding="utf-8"), read()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
