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
from bench.roofline.peaks import find_gpu
from bench.roofline.step import fused_kernels, measured_lines
from bench.roofline.table import Line, lines, step_bound, step_cost, step_measured
from fastgan.engine.precision import Precision
from fastgan.recipes import get_recipe

PAGE = ROOT / "docs" / "roofline.md"
RECIPE = "dcgan-64"
GPUS, BATCHES = ("H100 SXM", "H200 SXM"), (128, 1024)
DTYPES: tuple[Precision, ...] = ("float32", "bfloat16")
CPU_BATCH = 64


def gpu_table() -> str:
    """Bounds of a step in bfloat16, µs; those of memory are in italics."""
    recipe = get_recipe(RECIPE)
    columns: list[list[Line]] = []
    for gpu in GPUS:
        rates = find_gpu(gpu)[1].rates("bfloat16")
        kernels = [fused_kernels(recipe, batch, "bfloat16", tma=True) for batch in BATCHES]
        columns += [lines(found, rates) for found in kernels]
    heading = [*_NAMES, f"GFLOP, {BATCHES[0]}", f"MiB, {BATCHES[0]}"]
    heading += [f"{gpu}, {batch}" for gpu in GPUS for batch in BATCHES]
    body = []
    for row in zip(*columns, strict=True):
        cost = row[0].kernel.cost
        gflop = f"{cost.operations / 1e9:.2f}" if cost.operations else ""
        costs = [gflop, f"{cost.moved / 2**20:.1f}"]
        bounds = [f"*{x.bound:.1f}*" if x.limit == "bytes" else f"{x.bound:.1f}" for x in row]
        body.append([*_named(row[0]), *costs, *bounds])
    whole = step_cost(columns[0])
    last = ["**step**", "", "", f"{whole.operations / 1e9:.0f}", f"{whole.moved / 2**20:.0f}"]
    return table(
        heading, [*body, [*last, *(f"**{step_bound(column):.0f}**" for column in columns)]]
    )


def model_table() -> str:
    """What a step should take in bfloat16, µs, and what is left of it beyond its bounds."""
    heading = ["GPU", "batch", "bound", "estimate", "of the bound", *CAUSES.values()]
    body = []
    for gpu, batch in product(GPUS, BATCHES):
        peak = find_gpu(gpu)[1]
        kernels = fused_kernels(get_recipe(RECIPE), batch, "bfloat16", tma=True)
        bound = step_bound(lines(kernels, peak.rates("bfloat16")))
        left = total([k for found in kernels.values() for k in found], peak)
        takes = bound + left.left
        sums = [f"{bound:.0f}", f"{takes:.0f}", f"{bound / takes:.0%}"]
        body.append([gpu, str(batch), *sums, *(f"{value:.0f}" for value in left)])
    return table(heading, body)


def cpu_table() -> str:
    """What each kernel of a step takes here, by itself, and the bound at the rates measured, ms."""
    recipe, device = get_recipe(RECIPE), torch.device("cpu")
    heading, found, notes = [*_NAMES], [], []
    for dtype in DTYPES:
        measured, rate = measured_lines(recipe, CPU_BATCH, device, dtype)
        found.append({tuple(_named(x)): x for x in measured})
        rates = f"{rate.operations / 1e9:.0f} GFLOP/s, {rate.bytes / 1e9:.0f} GB/s"
        arithmetic = step_cost(measured).operations / rate.operations
        notes.append(f"{dtype} {rates}, all arithmetic at that {arithmetic * 1e3:.0f} ms")
        heading += [f"{dtype} by", "bound", "measured", "share"]
    body = []
    for key in dict.fromkeys(key for column in found for key in column):
        row = list(key)
        for column in found:
            row += _times(column.get(key))
        body.append(row)
    last = ["**step**", "", ""]
    for column in found:
        bound, took = step_bound([*column.values()]), step_measured([*column.values()])
        assert took
        last += ["", f"**{bound / 1e3:.0f}**", f"**{took / 1e3:.0f}**", f"**{bound / took:.0%}**"]
    return f"Rates: {'; '.join(notes)}.\n\n" + table(heading, [*body, last])


_NAMES = ("layer", "kernel", "times")


def _named(line: Line) -> list[str]:
    kernel = line.kernel
    return [f"{line.network[0].upper()} {kernel.layer}", kernel.name, str(kernel.times)]


def _times(line: Line | None) -> list[str]:
    if line is None or line.measured is None:
        return [""] * 4
    bound, took = line.bound / 1e3, line.measured / 1e3
    return [line.kernel.by, f"{bound:.2f}", f"{took:.2f}", f"{bound / took:.0%}"]


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
