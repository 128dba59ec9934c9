"""The roofline tables of docs/roofline.md: `python -m bench.roofline.page [--measure]`.

The bounds of GPUs follow from the shapes alone, and a test holds the page to them. What this
machine takes is measured, with --measure, on an otherwise idle one.
"""

from __future__ import annotations

import argparse
import sys
from itertools import product

import torch

from bench.harness.machine import ROOT
from bench.harness.page import filled, table
from bench.roofline.model import CAUSES, total
from bench.roofline.peaks import Peak, find_gpu
from bench.roofline.step import fused_kernels, measured_lines
from bench.roofline.table import Line, lines, rows, step_bound
from fastgan.engine.precision import Precision
from fastgan.recipes import get_recipe

PAGE = ROOT / "docs" / "roofline.md"
RECIPE = get_recipe("dcgan-64")
GPUS, BATCHES = ("H100 SXM", "H200 SXM"), (128, 1024)
DTYPES: tuple[Precision, ...] = ("float32", "bfloat16")
CPU_BATCH = 64


def on_gpu(gpu: str, batch: int) -> tuple[list[Line], Peak]:
    """A step in bfloat16 by a data sheet."""
    peak = find_gpu(gpu)[1]
    kernels = fused_kernels(RECIPE, batch, "bfloat16", tma=True)
    return lines(kernels, peak.rates("bfloat16")), peak


def gpu_table() -> str:
    """Every kernel on the last GPU at the smaller batch."""
    heading, *body = rows(*on_gpu(GPUS[-1], BATCHES[0]))
    return table(heading, body)


def model_table() -> str:
    """What a step should take in bfloat16, µs, and what is left of it beyond its bounds."""
    heading = ["GPU", "batch", "bound", "estimate", "of the bound", *CAUSES.values()]
    body = []
    for gpu, batch in product(GPUS, BATCHES):
        found, peak = on_gpu(gpu, batch)
        left = total([line.kernel for line in found], peak)
        bound = step_bound(found)
        takes = bound + left.left
        sums = [f"{bound:.0f}", f"{takes:.0f}", f"{bound / takes:.0%}"]
        body.append([gpu, str(batch), *sums, *(f"{value:.0f}" for value in left)])
    return table(heading, body)


def cpu_table() -> str:
    """What each kernel of a step takes here, by itself; GFLOP and MiB follow from the shapes."""
    parts = []
    for dtype in DTYPES:
        found, rates = measured_lines(RECIPE, CPU_BATCH, torch.device("cpu"), dtype)
        heading, *body = ([*row[:4], row[6], *row[8:]] for row in rows(found))
        parts += [f"{dtype}, {rates}:", table(heading, body)]
    return "\n\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--measure", action="store_true", help="measure this machine, too")
    chosen = parser.parse_args()
    page = filled(PAGE.read_text(encoding="utf-8"), "roofline: gpu", gpu_table())
    page = filled(page, "roofline: model", model_table())
    if chosen.measure:
        page = filled(page, "roofline: cpu", cpu_table())
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
