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
from bench.roofline.peaks import GPUS
from bench.roofline.step import measured_lines, sheet_lines
from bench.roofline.table import rows, step_bound
from fastgan.engine.precision import Precision
from fastgan.recipes import get_recipe

PAGE = ROOT / "docs" / "roofline.md"
RECIPE = get_recipe("dcgan-64")
MODELLED, BATCHES = ("H100 SXM", "H200 SXM"), (128, 1024)
DTYPES: tuple[Precision, ...] = ("float32", "bfloat16")
CPU_BATCH = 64


def gpu_table() -> str:
    """Every kernel on the last GPU at the smaller batch."""
    peak = GPUS[MODELLED[-1]]
    heading, *body = rows(sheet_lines(RECIPE, BATCHES[0], peak, "bfloat16"), peak)
    return table(heading, body)


def model_table() -> str:
    """What a step should take in bfloat16, µs, and what is left of it beyond its bounds."""
    heading = ["GPU", "batch", "bound", "estimate", "of the bound", *CAUSES.values()]
    body = []
    for gpu, batch in product(MODELLED, BATCHES):
        found = sheet_lines(RECIPE, batch, GPUS[gpu], "bfloat16")
        left = total([line.kernel for line in found], GPUS[gpu])
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
