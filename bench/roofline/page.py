"""The tables of docs/roofline.md: `python -m bench.roofline.page`. They follow from the shapes
alone, and a test holds the page to them."""

from __future__ import annotations

import sys
from itertools import product

from bench.harness.machine import ROOT
from bench.harness.page import filled, table
from bench.roofline.model import CAUSES, total
from bench.roofline.peaks import GPUS
from bench.roofline.step import step_lines
from bench.roofline.table import rows, step_bound
from fastgan.recipes import get_recipe

PAGE = ROOT / "docs" / "roofline.md"
RECIPE = get_recipe("dcgan-64")
MODELLED, BATCHES = ("H100 SXM", "H200 SXM"), (128, 1024)


def gpu_table() -> str:
    """Every kernel on the last GPU at the smaller batch."""
    peak = GPUS[MODELLED[-1]]
    heading, *body = rows(step_lines(RECIPE, BATCHES[0], peak, "bfloat16"), peak)
    return table(heading, body)


def model_table() -> str:
    """What a step should take in bfloat16, µs, and what is left of it beyond its bounds."""
    heading = ["GPU", "batch", "bound", "estimate", "of the bound", *CAUSES.values()]
    body = []
    for gpu, batch in product(MODELLED, BATCHES):
        found = step_lines(RECIPE, batch, GPUS[gpu], "bfloat16")
        left = total([line.kernel for line in found], GPUS[gpu])
        bound = step_bound(found)
        takes = bound + left.left
        sums = [f"{bound:.0f}", f"{takes:.0f}", f"{bound / takes:.0%}"]
        body.append([gpu, str(batch), *sums, *(f"{value:.0f}" for value in left)])
    return table(heading, body)


def main() -> int:
    page = filled(PAGE.read_text(encoding="utf-8"), "roofline: gpu", gpu_table())
    PAGE.write_text(filled(page, "roofline: model", model_table()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
