"""Fused and reference backends give the same loss curve."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import fastgan
from fastgan.engine import Batch, Trainer
from fastgan.recipes import list_recipes
from fastgan.recipes._run import build_trainer

from .tiny_recipe import tiny

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ops"))
from tolerance import assert_as_exact

STEPS = 32
SETTINGS = {"batch_size": 8, "device": "cpu", "steps": STEPS, "binarize": False, "ema_decay": 0.0}


def loss_curve(trainer: Trainer, dtype: torch.dtype) -> Tensor:
    """The losses of every step, [steps, losses]."""
    for network in (trainer.generator, trainer.discriminator):
        network.to(dtype)
    updates = trainer.config.discriminator_steps
    rows = []
    for step in range(STEPS):

        def batches(i: int, step: int = step) -> Batch:
            images, labels = trainer.loader.batch(step * updates + i)
            labels = labels if trainer.config.conditional else None
            return Batch(images.to(dtype), labels, trainer._draw_noise().to(dtype))

        found = trainer.step_function(trainer.gan, batches, ())
        rows.append(torch.stack([v.double() for k, v in found.items() if k.startswith("loss")]))
    return torch.stack(rows)


@pytest.mark.parametrize("name", [recipe.name for recipe in list_recipes()])
def test_the_loss_curve_does_not_depend_on_the_backend(name, native, monkeypatch):
    draw, normal = torch.rand, torch.randn_like
    # Random numbers of one stream, whatever the dtype.
    monkeypatch.setattr(
        torch, "rand", lambda *s, device=None, dtype=None: draw(*s, device=device).to(dtype)
    )
    monkeypatch.setattr(torch, "randn_like", lambda x: normal(x.float()).to(x.dtype))
    recipe = tiny(name)
    recipe = dataclasses.replace(
        recipe,
        train=dataclasses.replace(recipe.train, **SETTINGS),
        data=dataclasses.replace(recipe.data, limit=200),
    )
    curves = {}
    for backend, dtype in (
        ("reference", torch.float64), ("reference", torch.float32), ("cpu", torch.float32),
    ):  # fmt: skip
        with fastgan.backend(backend):
            curves[backend, dtype] = loss_curve(build_trainer(recipe), dtype)
    exact = curves["reference", torch.float64]
    assert exact.isfinite().all()
    for column in range(exact.shape[1]):
        own, eager, true = (
            curves[key][:, column]
            for key in (
                ("cpu", torch.float32),
                ("reference", torch.float32),
                ("reference", torch.float64),
            )
        )
        assert_as_exact(f"loss {column}", own, eager, true, floor=torch.float32)
