"""The kernels of a recipe's training step: one update of each network, without regularisers, the
same generated images in both."""

from __future__ import annotations

import torch

from bench.roofline.kernels import DISCRIMINATOR, GENERATOR, step_kernels
from bench.roofline.peaks import Peak
from bench.roofline.table import Line, lines
from fastgan.checks import check_int
from fastgan.engine.precision import LOWER, Precision, autocast
from fastgan.ops.conv import tuning
from fastgan.recipes import Recipe
from fastgan.recipes.tuning import networks

_TRACED, _HERE = 2, torch.device("cpu")  # the batch that is run to see what becomes of each block


def step_lines(recipe: Recipe, batch_size: int, peak: Peak, precision: Precision) -> list[Line]:
    """Every kernel of a step in the fused form, with its bound on a GPU that need not be there.
    ValueError for a batch below 2."""
    check_int("batch_size", batch_size, 2)
    tma = peak.tma and precision in LOWER
    passes = {"generator": GENERATOR, "discriminator": DISCRIMINATOR}
    found, models = {}, networks(recipe, _TRACED, _HERE)
    with tuning.convolution_form("fused"), autocast(_HERE, precision):
        for (role, times), (model, inputs) in zip(passes.items(), models, strict=False):
            found[role] = step_kernels(model, inputs, times, batch_size, tma)
    return lines(found, *peak.rates(precision))
