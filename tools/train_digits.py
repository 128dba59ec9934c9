"""Train the generator that ships with the package, `fastgan sample digits`, measure it, keep it.

    python tools/train_digits.py                # minutes of one CPU thread
    python tools/train_digits.py --run FOLDER   # keep what was trained there; --note says how else

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
from typing import Any

import torch

import fastgan
from fastgan.engine.checkpoint import PRETRAINED, find_checkpoint, save_checkpoint
from fastgan.recipes.evaluation import Evaluation, evaluate_checkpoint

TARGET = PRETRAINED / "digits"
RECIPE = "cdcgan"
BOTH: dict[str, Any] = {"seed": 0, "device": "cpu"}
FIRST: dict[str, Any] = {"steps": 1325, "ema_decay": 0.998}
THEN: dict[str, Any] = {
    "steps": 400, "lr_g": 3e-4, "lr_d": 3e-4, "lr_schedule": "linear", "ema_decay": 0.99,
}  # fmt: skip
KEPT = ("config", "objective", "recipe", "generator")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--run", type=Path, help="a run that stands")
    parser.add_argument("--note", default="", help="how it was trained otherwise than here")
    parser.add_argument("--data", default="mnist", help="where MNIST lies; default: the cache")
    chosen = parser.parse_args()
    run = chosen.run
    if run is None:
        first = fastgan.train(RECIPE, data=chosen.data, **BOTH, **FIRST).out
        run = fastgan.train(RECIPE, data=chosen.data, init_from=first, **BOTH, **THEN).out
    keep(run, chosen.data, chosen.note)
    print(f"{TARGET}: {sum(p.stat().st_size for p in TARGET.iterdir())} bytes")


def keep(run: Path, data: str, note: str) -> None:
    """The averaged generator of a run, with its scores, as the checkpoint that ships."""
    checkpoint = find_checkpoint(run)
    scores = evaluate_checkpoint(run, Evaluation(metrics=("fid", "classes"), data=data))
    manifest = checkpoint.manifest
    info = {name: manifest[name] for name in KEPT}
    info["data"] = {**manifest["data"], "name": "mnist"}
    info["load"] = {**manifest["load"], "data": "mnist"}
    info["trained"] = {
        "runs": [BOTH | FIRST, BOTH | THEN],
        "note": note,
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
