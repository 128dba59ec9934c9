"""What a training would do, found out without writing anything."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastgan.engine import Trainer, launched
from fastgan.engine.checkpoint import list_checkpoints
from fastgan.engine.config import intervals_of
from fastgan.engine.evaluating import Evaluator
from fastgan.engine.memory import memory_used
from fastgan.engine.report import duration
from fastgan.ops.core.cuda_libraries import cuda_libraries
from fastgan.recipes.recipe import Recipe
from fastgan.recipes.run import build_trainer, override

# Steps before a clock is looked at (on a GPU the first ones record graphs), and under it.
_WARM = {"cpu": 1, "cuda": 5}
_TIMED, _ENOUGH_SECONDS = 10, 3.0


def dry_run(recipe: Recipe, folder: Path, *, resume: bool = False, **overrides: Any) -> list[str]:
    """What ``train`` would run, a line a fact: networks, data, steps, files, memory and time.

    Data are opened, networks are made and a few steps of them are timed and forgotten; no file is
    written. Raises what ``train`` raises before its first step.
    """
    recipe = override(recipe, **overrides)
    with launched(recipe.train.device):
        trainer = build_trainer(recipe, initialise=not resume)
        try:
            Evaluator.of(trainer)
            lines = _described(recipe, trainer, folder, resume)
            precision, exact = trainer.gan.precision, trainer.config.deterministic
            with cuda_libraries(precision, deterministic=exact):
                return lines + _timed(trainer, _steps_left(trainer, folder, resume))
        finally:
            trainer.release()


def _described(recipe: Recipe, trainer: Trainer, folder: Path, resume: bool) -> list[str]:
    config, data = trainer.config, trainer.dataset
    count, *item = data.shape
    passes = config.steps * config.batch_size * config.discriminator_steps / max(count, 1)
    epochs = f", {passes:,.1f} times through the data" if count else ""
    labels = data.labels
    classes = "" if labels is None or labels.dim() > 1 else f", {len(labels.unique())} classes"
    images = f"{count:,} items" if count else "items, how many is not known,"
    left = _steps_left(trainer, folder, resume)
    going_on = f", of which {config.steps - left:,} are made" if left < config.steps else ""
    every = ", ".join(
        f"{name.removesuffix('_every')} every {getattr(config, name)}"
        for name, interval in intervals_of(config).items()
        if interval.on
    )
    processes = _counted(trainer.group.size, "process", "processes")
    size = sum(map(_bytes, (trainer.generator, trainer.discriminator))) * 3
    size += _bytes(trainer.ema.average) if trainer.ema else 0
    return [
        f"recipe        {recipe.name}: {recipe.summary}",
        f"into          {folder}{' (goes on)' if resume and folder.exists() else ''}",
        f"data          {data.name}: {images} of {' × '.join(map(str, item))}{classes}",
        f"generator     {_network(trainer.generator)}",
        f"discriminator {_network(trainer.discriminator)}",
        f"steps         {config.steps:,}{going_on}, batches of {config.batch_size}{epochs}",
        f"device        {trainer.device}, {processes}, {config.precision}",
        f"files         {every or 'at the end only'}; a checkpoint is about {size / 1e6:,.1f} MB",
    ]


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _steps_left(trainer: Trainer, folder: Path, resume: bool) -> int:
    made = list_checkpoints(folder / "checkpoints") if resume else []
    done = int(made[0].name.removeprefix("step-")) if made else 0
    return max(trainer.config.steps - done, 0)


def _timed(trainer: Trainer, left: int) -> list[str]:
    kind = trainer.device.type
    for _ in range(_WARM.get(kind, 1)):
        trainer.train_step()
    _wait(kind)
    started, made = time.perf_counter(), 0
    while made < _TIMED and time.perf_counter() - started < _ENOUGH_SECONDS:
        trainer.train_step()
        made += 1
    _wait(kind)
    each = (time.perf_counter() - started) / made
    images = trainer.config.batch_size * trainer.config.discriminator_steps / each
    memory = memory_used(trainer.device)
    taken = _counted(made, "step", "steps")
    held = "is not known" if memory is None else f"{memory / 1e9:.1f} GB in {taken}"
    return [
        f"memory        {held} ({'of the GPU' if kind == 'cuda' else 'resident, all of it'})",
        f"time          about {duration(each * left)}: {each * 1e3:,.1f} ms a step, "
        f"{images:,.0f} images a second, grids and evaluations not counted",
    ]


def _wait(kind: str) -> None:
    if kind == "cuda":
        torch.cuda.synchronize()


def _network(module: nn.Module) -> str:
    count = sum(p.numel() for p in module.parameters())
    return f"{type(module).__name__}, {count:,} parameters" if count else "none"


def _bytes(module: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in module.state_dict().values())
