"""The steps of the recipes that are recorded."""

from __future__ import annotations

import dataclasses
import math
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

import fastgan
from fastgan.checks import sides
from fastgan.data import ImageDataset
from fastgan.engine import Trainer, styling, validate
from fastgan.engine.capture import StepRunner
from fastgan.engine.precision import Precision
from fastgan.ops import convolution_form
from fastgan.recipes import Recipe, build_models

from .gpus import Gpu, virtual
from .record import Call, Launch, recording

_WARM_UP = 1  # steps of its kind before one is recorded: what is made once is made in the first


class Variant(NamedTuple):
    """How a step is made."""

    gpu: Gpu
    capture: bool
    precision: Precision = "bfloat16"
    backend: str = "cuda"
    form: str = "auto"  # of the convolution blocks

    def __str__(self) -> str:
        mode = "captured" if self.capture else "eager"
        form = "" if self.form == "auto" else f", {self.form}"
        return f"{mode}, {self.precision}, {self.backend}{form}, {self.gpu.target}"


class Recorded(NamedTuple):
    """A step: what it launched, and the operators of fastgan that it called."""

    launches: list[Launch]
    calls: list[Call]


def record(recipe: Recipe, variant: Variant, **overrides: Any) -> Recorded:
    """One step of a recipe, after those that warm it up: one with all penalties, if they are lazy.

    Args:
        overrides: fields of the recipe's training configuration, such as batch_size.
    """
    config = dataclasses.replace(
        recipe.train, device="cuda", capture="on" if variant.capture else "off",
        precision=variant.precision, **overrides,
    )  # fmt: skip
    updates = config.discriminator_steps
    before = _WARM_UP * math.lcm(config.reg_every, updates) // updates
    count = config.batch_size * updates * 3
    shape = count, recipe.channels, *sides(recipe.image_size)
    labels = _conditions(recipe, count) if config.conditional else None
    dataset = ImageDataset(torch.zeros(shape, dtype=torch.uint8), labels)
    with (
        _own_settings(),
        virtual(variant.gpu) as cuda,
        convolution_form(variant.form),
        patch.object(StepRunner, "WARM_UP", _WARM_UP),
        patch.object(validate, "_check_labels", lambda *_: None),  # it reads values
        patch.object(styling, "read_style", _style),  # so does it
        recording(variant.backend, lambda: cuda.capturing) as recorder,
    ):
        with torch.device("cuda"):
            generator, discriminator = build_models(recipe)
        trainer = Trainer(generator, discriminator, dataset, config, objective=recipe.objective)
        for _ in range(before):
            trainer.train_step()
        recorder.launches.clear()
        recorder.calls.clear()
        trainer.train_step()
        return Recorded(list(recorder.launches), list(recorder.calls))


@contextmanager
def _own_settings() -> Iterator[None]:
    """Within, torch is as a process finds it: deterministic algorithms, which a test may have asked
    for, are other launches."""
    before = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)


def _conditions(recipe: Recipe, count: int) -> Tensor:
    """What images are of: numbers where the generator takes some, else classes."""
    numbers = recipe.generator.arguments.get("conditions", 0)
    return torch.zeros(count, numbers) if numbers else torch.arange(count) % 10


def _style(style: str, size: int, channels: int) -> Tensor:
    return torch.zeros(channels, size, size, dtype=torch.uint8)


def place(error: BaseException) -> str:
    """The innermost line of fastgan that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if Path(f.filename).is_relative_to(Path(fastgan.__file__).parent)]
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "outside of fastgan"
