"""Fused and reference backends make the same steps."""

from __future__ import annotations

import pytest
import torch
from along import STEPS, Results, Run, assert_along, assert_free
from torch import Tensor, nn

import fastgan
from fastgan.engine import Batch
from fastgan.recipes import Recipe, list_recipes, override
from fastgan.recipes.run import build_trainer

from .tiny_recipe import tiny

NAMES = [recipe.name for recipe in list_recipes()]
# In float64, too, starts a unit in the last place of float32 apart end 7e-5 apart (medians of six),
# 8e-8 with a smooth function for ReLU and 2e-7 with a non-saturating loss: the kinks of ReLU set
# two runs apart, and the hinge loss, whose slope does not fade, drives them on.
CHAOTIC = {"sngan"}
# Low enough that the run stays smooth; the losses of those that encode are sums over pixels.
RATES = {
    "gan": 1e-3,
    "autoencoder": 1e-5,
    "vae": 1e-5,
    "vae_gan": 1e-5,
    "translation": 1e-4,
    "cycle": 1e-4,
    "style": 1e-4,
    "language": 1e-2,
    "vocoder": 1e-4,
}
SETTINGS = {"batch_size": 8, "device": "cpu", "steps": STEPS, "ema_decay": 0.0}


def training(recipe: Recipe, backend: str, dtype: torch.dtype) -> Run:
    """The recipe's step, by plain gradient descent, which has no state of its own."""
    trainer = build_trainer(recipe)
    parts = {"generator": trainer.generator, "discriminator": trainer.discriminator}
    if isinstance(trainer.step_function, nn.Module):
        parts["step"] = trainer.step_function
    network = nn.ModuleDict(parts).to(dtype)
    names = {p: name for name, p in network.named_parameters()}
    seen: list[tuple[str, Tensor]] = []

    def see(optimizer: torch.optim.Optimizer, *_: object) -> None:
        parameters = optimizer.param_groups[0]["params"]
        seen.extend((names[p], p.grad.clone()) for p in parameters if p.grad is not None)

    for update in (trainer.gan.update_g, trainer.gan.update_d):
        # Adam's first updates are ±lr whatever the size of a gradient, so that one which is zero
        # but for its rounding moves a weight as far as any other: not a measure of rounding.
        rate = RATES[trainer.objective.objective]
        update.optimizer = torch.optim.SGD([{"params": update.parameters}], lr=rate, fused=True)
        update.optimizer.register_step_pre_hook(see)
    updates = trainer.config.discriminator_steps
    noise = [trainer._draw_noise().to(dtype) for _ in range(STEPS * (updates + 1))]

    def step(number: int) -> Results:
        torch.manual_seed(number)
        seen.clear()

        def batches(i: int) -> Batch:
            loader = trainer.loader
            images, labels = loader.gather(*loader.rows(number * updates + i))
            labels = labels if trainer.config.conditional else None
            return Batch(images.to(dtype), labels, noise[number * (updates + 1) + i])

        with fastgan.backend(backend):
            found = trainer.step_function(trainer.gan, batches, ())
        results: Results = {
            "losses": {k: v for k, v in found.items() if k.startswith("loss")},
            "statistics": {k: b.clone() for k, b in network.named_buffers()},
        }
        for name, gradient in seen:
            group = results.setdefault(f"gradients of the {name.partition('.')[0]}", {})
            # A discriminator may be updated several times in a step.
            again = sum(k.rpartition(" ")[0] == name for k in group)
            group[f"{name} {again}"] = gradient
        return results

    return Run(network, step)


@pytest.fixture
def recipe(name: str, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    draw, normal = torch.rand, torch.randn_like
    # Random numbers of one stream, whatever the dtype.
    monkeypatch.setattr(
        torch, "rand", lambda *s, device=None, dtype=None: draw(*s, device=device).to(dtype)
    )
    monkeypatch.setattr(torch, "randn_like", lambda x: normal(x.float()).to(x.dtype))
    recipe = tiny(name)
    chance = {"binarize": False} if hasattr(recipe.objective, "binarize") else {}
    return override(recipe, **SETTINGS, **chance, limit=200)


@pytest.fixture
def runs(recipe: Recipe, native: None) -> list[Run]:
    """The cpu backend's, the reference's, and float64's."""
    return [
        training(recipe, "cpu", torch.float32),
        training(recipe, "reference", torch.float32),
        training(recipe, "reference", torch.float64),
    ]


@pytest.mark.parametrize("name", NAMES)
def test_steps_do_not_depend_on_the_backend(name, runs):
    assert_along(*runs)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in CHAOTIC])
def test_the_loss_curve_does_not_depend_on_the_backend(name, runs):
    assert_free(*runs)


@pytest.mark.parametrize("name", ["dcgan-28"])
def test_nor_on_the_library(recipe, no_library):
    """By PyTorch's own layers, as where there is none."""
    assert_free(
        training(recipe, "auto", torch.float32),
        training(recipe, "reference", torch.float32),
        training(recipe, "reference", torch.float64),
    )
