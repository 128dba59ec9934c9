"""Tuning the networks of a recipe on this machine."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fastgan.engine.precision import Precision, autocast, float32_products
from fastgan.fusion import explain, tune
from fastgan.fusion.peaks import find_gpu
from fastgan.fusion.roofline import Rates, measured_rates
from fastgan.fusion.step_kernels import DISCRIMINATOR, GENERATOR, Kernel, step_kernels
from fastgan.fusion.step_table import Line, lines, measured, print_step
from fastgan.ops import tuning
from fastgan.recipes._recipe import Recipe
from fastgan.recipes._run import build_models


def explain_recipe(recipe: Recipe, batch_size: int, device: torch.device) -> None:
    """Prints how each block of both networks runs. ValueError for a batch below 2."""
    for model, x in _networks(recipe, batch_size, device):
        explain(model, x)


def roofline_recipe(
    recipe: Recipe, batch_size: int, device: torch.device, precision: Precision, gpu: str = ""
) -> None:
    """Prints every kernel of a training step: one update of each network, without regularisers, the
    same generated images in both.

    gpu: one of `fastgan.fusion.peaks`: its floors by its data sheet, of the fused form, unmeasured.
    Else those of `device` at the rates it was seen to reach, of the forms chosen for it, and what
    each kernel takes by itself. ValueError for a batch below 2, a GPU that is not known, or TF32 on
    a CPU.
    """
    if gpu:
        name, peak = find_gpu(gpu)
        kernels = fused_kernels(recipe, batch_size, precision)
        title = f"{recipe.name}, batch {batch_size}, {precision}, {name} ({peak.source})"
        print_step(title, lines(kernels, peak.rates(precision)))
        return
    timed, rates = measured_lines(recipe, batch_size, device, precision)
    title = (
        f"{recipe.name}, batch {batch_size}, {precision}, {tuning.device_name(device)}: "
        f"{rates.operations / 1e9:.0f} GFLOP/s, {rates.bytes / 1e9:.0f} GB/s measured"
    )
    print_step(title, timed)


def measured_lines(
    recipe: Recipe, batch_size: int, device: torch.device, precision: Precision
) -> tuple[list[Line], Rates]:
    """Every kernel of a step, timed by itself on a device, and the rates measured there."""
    if precision == "tf32" and device.type == "cpu":
        raise ValueError("precision: a CPU has no tf32")
    with float32_products(precision):
        dtype = torch.float32 if precision == "tf32" else getattr(torch, precision)
        rates = measured_rates(device, dtype)
        kernels = _step(recipe, batch_size, device, precision)
        return measured(lines(kernels, rates), device), rates


def fused_kernels(recipe: Recipe, batch_size: int, precision: Precision) -> dict[str, list[Kernel]]:
    """The kernels of a step in the fused form, counted for a GPU that need not be there."""
    if batch_size < 2:
        raise ValueError(f"batch_size must be at least 2, got {batch_size}")
    with tuning.convolution_form("fused"):
        return _step(recipe, 2, torch.device("cpu"), precision, batch_size)


def _step(
    recipe: Recipe,
    batch_size: int,
    device: torch.device,
    precision: Precision,
    counted: int | None = None,
) -> dict[str, list[Kernel]]:
    found = {}
    roles = zip(("generator", "discriminator"), (GENERATOR, DISCRIMINATOR), strict=True)
    networks = _networks(recipe, batch_size, device)
    for (role, passes), (model, x) in zip(roles, networks, strict=False):
        with autocast(device, precision):
            found[role] = step_kernels(model, x, passes, counted)
    return found


def _networks(
    recipe: Recipe, batch_size: int, device: torch.device
) -> Iterator[tuple[nn.Module, Tensor]]:
    """The generator and the discriminator, each with an input, as they are trained."""
    if batch_size < 2:
        raise ValueError(f"batch_size must be at least 2, got {batch_size}")
    image = (recipe.channels, recipe.image_size, recipe.image_size)
    generator, discriminator = build_models(recipe)
    for model, shape in ((generator, (generator.latent_dim,)), (discriminator, image)):
        if model is None:
            continue
        model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        yield model, torch.randn(batch_size, *shape, device=device)


def tune_recipe(
    recipe: Recipe, batch_size: int, device: torch.device, dtype: str, rounds: int
) -> Iterator[str]:
    """Measures every layer of both networks and stores the choices; yields a line for each.

    ValueError for a batch below 2 (batch norm has no statistics of one image) or no round.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    precision = getattr(torch, dtype)
    for model, x in _networks(recipe, batch_size, device):
        with torch.autocast(device.type, precision, enabled=dtype != "float32"):
            measured = tune(model, x, rounds)
        for layer, times in measured.items():
            ranked = sorted(times, key=lambda form: times[form])
            yield f"{layer}: " + ", ".join(f"{form} {times[form]:.0f} µs" for form in ranked)
    forms = tuning.compiled_forms(device, precision)
    if len(forms) == 1:
        yield f"on {device.type} there is one compiled form, {forms[0]}: nothing to choose"
    yield f"kept in {tuning.user_table()}"
