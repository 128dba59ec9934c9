"""The kernels of a recipe's training step: one update of each network, without regularisers, the
same generated images in both."""

from __future__ import annotations

from functools import cache

import torch

from bench.harness.machine import ceilings, rate
from bench.roofline.kernels import DISCRIMINATOR, GENERATOR, Kernel, step_kernels
from bench.roofline.peaks import Peak, Rates
from bench.roofline.table import Line, lines, measured
from fastgan.engine.precision import LOWER, Precision, autocast
from fastgan.ops.conv import tuning
from fastgan.ops.core.cuda_libraries import cuda_libraries
from fastgan.recipes import Recipe
from fastgan.recipes.tuning import networks


@cache
def measured_rates(device: torch.device, precision: Precision) -> Rates:
    """The rates that a device was seen to reach, once a process."""
    dtype = "float32" if precision == "tf32" else precision
    with cuda_libraries(precision):
        found = ceilings(device.type, dtypes=("float32", dtype))
    return Rates(rate(found, dtype), found["bytes"])


def measured_lines(
    recipe: Recipe, batch_size: int, device: torch.device, precision: Precision
) -> tuple[list[Line], Rates]:
    """Every kernel of a step in the forms chosen for a device, timed by itself there, and the rates
    measured there. ValueError for TF32 on a CPU."""
    if precision == "tf32" and device.type == "cpu":
        raise ValueError("precision: a CPU has no tf32")
    rates = measured_rates(device, precision)
    with cuda_libraries(precision):
        kernels = _step(recipe, batch_size, device, precision)
        return measured(lines(kernels, rates), device), rates


def sheet_lines(recipe: Recipe, batch_size: int, peak: Peak, precision: Precision) -> list[Line]:
    """Every kernel of a step in the fused form, counted for a GPU that need not be there, with its
    bound by the data sheet. ValueError for a batch below 2."""
    if batch_size < 2:
        raise ValueError(f"batch_size must be at least 2, got {batch_size}")
    tma = peak.tma and precision in LOWER
    with tuning.convolution_form("fused"):
        kernels = _step(recipe, 2, torch.device("cpu"), precision, batch_size, tma)
    return lines(kernels, peak.rates(precision))


def _step(
    recipe: Recipe,
    batch_size: int,
    device: torch.device,
    precision: Precision,
    counted: int | None = None,
    tma: bool = False,
) -> dict[str, list[Kernel]]:
    found, passes = {}, {"generator": GENERATOR, "discriminator": DISCRIMINATOR}
    models = networks(recipe, batch_size, device)
    for (role, times), (model, inputs) in zip(passes.items(), models, strict=False):
        with autocast(device, precision):
            found[role] = step_kernels(model, inputs, times, counted, tma)
    return found
