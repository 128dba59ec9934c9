"""Train the generator that ships with the package, `fastgan sample digits`, measure it, keep it.

    python tools/train_digits.py                # minutes of one CPU thread
    python tools/train_digits.py --run FOLDER   # keep what was trained so there

Needs the full MNIST (`fastgan data fetch mnist`, or `examples/data/fetch.py mnist`). Writes
fastgan/engine/pretrained-models/digits/: the average of the weights, and in checkpoint.json the
configuration, the date and the scores.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from datetime import datetime, timezone
from pathlib import Path

import torch

import fastgan
from fastgan.engine.checkpoint import PRETRAINED, find_checkpoint, save_checkpoint
from fastgan.recipes.evaluation import Evaluation, evaluate_checkpoint

TARGET = PRETRAINED / "digits"
RECIPE = "acgan"
KEPT = ("config", "objective", "recipe", "generator")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--run", type=Path, help="a run that stands")
    parser.add_argument("--data", default="mnist", help="where MNIST lies; default: the cache")
    chosen = parser.parse_args()
    run = chosen.run or fastgan.train(RECIPE, data=chosen.data, seed=0, device="cpu").out
    keep(run, chosen.data)
    print(f"{TARGET}: {sum(p.stat().st_size for p in TARGET.iterdir())} bytes")


def keep(run: Path, data: str) -> None:
    """The averaged generator of a run, with its scores, as the checkpoint that ships."""
    checkpoint = find_checkpoint(run)
    scores = evaluate_checkpoint(run, Evaluation(metrics=("fid", "classes"), data=data))
    manifest = checkpoint.manifest
    info = {name: manifest[name] for name in KEPT}
    info["data"] = {**manifest["data"], "name": "mnist"}
    info["load"] = {**manifest["load"], "data": "mnist"}
    info["trained"] = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "torch": torch.__version__,
        "scores": {score.metric: score.value for score in scores},
        "setting": {**scores[0].setting, "data": "mnist"},
    }
    with tempfile.TemporaryDirectory(dir=PRETRAINED) as folder:
        tensors = {"generator": checkpoint.tensors("generator_ema")}
        made = save_checkpoint(Path(folder), checkpoint.step, tensors, info)
        shutil.rmtree(TARGET, ignore_errors=True)
        made.rename(TARGET)


if __name__ == "__main__":
    main()
