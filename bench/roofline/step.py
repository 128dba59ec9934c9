"""The kernels of a recipe's training step, with bounds: one update of each network, without
regularisers, the same generated images in both."""

from __future__ import annotations

from functools import cache

import torch

from bench.harness.machine import ceilings, rate
from bench.roofline.kernels import DISCRIMINATOR, GENERATOR, Kernel, step_kernels
from bench.roofline.peaks import Rates, find_gpu
from bench.roofline.table import Line, lines, measured, print_step
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


def print_roofline(
    recipe: Recipe, batch_size: int, device: torch.device, precision: Precision, gpu: str = ""
) -> None:
    """Prints every kernel of the step.

    Args:
        gpu: one of `bench.roofline.peaks`: bounds by its data sheet, of the fused form, unmeasured;
            of Hopper in 16 bits what `bench.roofline.model` makes of the compiled kernels, too.
            Else those of `device` at the rates it was seen to reach, of the forms chosen for it,
            and what each kernel takes by itself. ValueError for a batch below 2, a GPU that is not
            known, or TF32 on a CPU.
    """
    if gpu:
        name, peak = find_gpu(gpu)
        kernels = fused_kernels(recipe, batch_size, precision, peak.tma)
        title = f"{recipe.name}, batch {batch_size}, {precision}, {name} ({peak.source})"
        modelled = peak if peak.multiprocessors and precision in LOWER else None
        print_step(title, lines(kernels, peak.rates(precision)), modelled)
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
    rates = measured_rates(device, precision)
    with cuda_libraries(precision):
        kernels = _step(recipe, batch_size, device, precision)
        return measured(lines(kernels, rates), device), rates


def fused_kernels(
    recipe: Recipe, batch_size: int, precision: Precision, tma: bool = False
) -> dict[str, list[Kernel]]:
    """The kernels of a step in the fused form, counted for a GPU that need not be there; tma: it
    has TMA, by which 16 bits are served.
    """
    if batch_size < 2:
        raise ValueError(f"batch_size must be at least 2, got {batch_size}")
    with tuning.convolution_form("fused"):
        return _step(recipe, 2, torch.device("cpu"), precision, batch_size, tma)


def _step(
    recipe: Recipe,
    batch_size: int,
    device: torch.device,
    precision: Precision,
    counted: int | None = None,
    tma: bool = False,
) -> dict[str, list[Kernel]]:
    found = {}
    roles = zip(("generator", "discriminator"), (GENERATOR, DISCRIMINATOR), strict=True)
    pairs = zip(roles, networks(recipe, batch_size, device), strict=False)
    for (role, passes), (model, inputs) in pairs:
        with autocast(device, precision):
            found[role] = step_kernels(model, inputs, passes, counted, tma and precision in LOWER)
    return found
