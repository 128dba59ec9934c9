"""Tuning the networks of a recipe on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.checks import check_int, sides
from fastgan.engine.latents import inputs_of
from fastgan.engine.memory import require_memory
from fastgan.engine.train_state import channels_last_of
from fastgan.engine.translating import TranslationStep
from fastgan.fusion import explain, tune
from fastgan.nn.modes import modes_kept
from fastgan.ops.conv import tuning
from fastgan.ops.conv.timing import ranked
from fastgan.recipes.recipe import Recipe
from fastgan.recipes.run import build_models


def explain_recipe(recipe: Recipe, batch_size: int, device: torch.device) -> None:
    """Prints how each block of both networks runs. ValueError for a batch below 2."""
    for model, inputs in networks(recipe, batch_size, device):
        explain(model, *inputs)


def networks(
    recipe: Recipe, batch_size: int, device: torch.device
) -> Iterator[tuple[nn.Module, tuple[Tensor, ...]]]:
    """The generator and the discriminator, each with its inputs, as they are trained.

    ValueError for a batch below 2, or one that the device cannot hold.
    """
    check_int("batch_size", batch_size, 2)
    image = (recipe.channels, *sides(recipe.image_size))
    generator, discriminator = build_models(recipe)
    step = recipe.objective.step(generator, image)

    def inputs(model: nn.Module, count: int) -> tuple[Tensor, ...]:
        images = torch.randn(count, *image, device=device)
        labels = torch.zeros(count, dtype=torch.int64, device=device)
        numbers = getattr(generator, "conditions", 0)
        labels = torch.zeros(count, numbers, device=device) if numbers else labels
        given = labels if recipe.train.conditional else None
        if isinstance(step, TranslationStep):
            given = step.to(device).given(images, None)
        if model is not generator:
            return tuple(inputs_of(images, given))
        noise = torch.randn(count, model.latent_dim, device=device)  # type: ignore[call-overload]
        return tuple(inputs_of(noise, given))

    for model in (generator, discriminator):
        if model is None:
            continue
        model.to(device)._apply(channels_last_of)
        least = _bytes_at_once(model, inputs(model, 2)) // 2 * batch_size
        require_memory("batch_size", batch_size, least, device)
        yield model, inputs(model, batch_size)


@torch.no_grad()
def _bytes_at_once(model: nn.Module, given: tuple[Tensor, ...]) -> int:
    """Of the input and the output of a module in ``model``, the most: no form holds less."""
    most = 0

    def look(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal most
        most = max(most, sum(t.nbytes for t in (*inputs, output) if isinstance(t, Tensor)))

    handles = [m.register_forward_hook(look) for m in model.modules() if not any(m.children())]
    try:
        with modes_kept(model):
            model.eval()(*given)
    finally:
        for handle in handles:
            handle.remove()
    return most


def tune_recipe(
    recipe: Recipe, batch_sizes: Sequence[int], device: torch.device, dtype: str, rounds: int
) -> Iterator[str]:
    """Measures every layer of both networks and stores the choices; yields a line for each.

    ValueError for a batch below 2 (batch norm has no statistics of one image) or no round.
    """
    check_int("rounds", rounds, 1)
    precision = getattr(torch, dtype)
    for batch_size in batch_sizes:
        for model, inputs in networks(recipe, batch_size, device):
            with torch.autocast(device.type, precision, enabled=dtype != "float32"):
                measured = tune(model, inputs, rounds)
            yield from (f"{layer}: {ranked(times)}" for layer, times in measured.items())
    forms = tuning.compiled_forms(device, precision)
    if len(forms) == 1:
        yield f"on {device.type} there is one compiled form, {forms[0]}: nothing to choose"
    yield f"kept in {tuning.user_table()}"


def default_batches(device: torch.device) -> tuple[int, ...]:
    """The batches that a device is tuned for: of each is a class (`tuning.classes`)."""
    return (128, 1024) if device.type == "cuda" else (64,)
