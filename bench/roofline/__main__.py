"""python -m bench.roofline [RECIPE]: every kernel of a training step, with its roofline bound: by a
GPU's data sheet, or at the rates that this machine was seen to reach, and measured."""

from __future__ import annotations

import argparse
import sys
from typing import get_args

from bench.roofline.peaks import find_gpu
from bench.roofline.step import measured_lines, sheet_lines
from bench.roofline.table import print_step
from fastgan.engine.device import take_device
from fastgan.engine.precision import LOWER, Precision
from fastgan.ops.conv.tuning import device_name
from fastgan.recipes import get_recipe


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.roofline", description=__doc__)
    parser.add_argument("recipe", nargs="?", default="dcgan-64")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="float32", choices=get_args(Precision))
    parser.add_argument("--gpu", default="", help="bounds of a GPU by its data sheet, unmeasured")
    chosen = parser.parse_args(arguments)
    try:
        _print(chosen)
    except ValueError as error:
        print(f"fastgan explain: error: {error}", file=sys.stderr)
        return 2
    return 0


def _print(chosen: argparse.Namespace) -> None:
    recipe, batch, precision = get_recipe(chosen.recipe), chosen.batch_size, chosen.precision
    title = f"{recipe.name}, batch {batch}, {precision}, "
    if chosen.gpu:
        name, peak = find_gpu(chosen.gpu)
        modelled = peak if peak.multiprocessors and precision in LOWER else None
        counted = sheet_lines(recipe, batch, peak, precision)
        print_step(f"{title}{name} ({peak.source})", counted, modelled)
        return
    device = take_device(chosen.device)
    timed, rates = measured_lines(recipe, batch, device, precision)
    print_step(f"{title}{device_name(device)}: {rates}", timed)


if __name__ == "__main__":
    sys.exit(main())
