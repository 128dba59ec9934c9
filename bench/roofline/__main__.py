"""python -m bench.roofline [RECIPE]: every kernel of a training step, with its roofline bound by a
GPU's data sheet."""

from __future__ import annotations

import argparse
import sys
from typing import get_args

from bench.roofline.peaks import find_gpu
from bench.roofline.step import step_lines
from bench.roofline.table import print_step
from fastgan.engine.precision import LOWER, Precision
from fastgan.recipes import get_recipe


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.roofline", description=__doc__)
    parser.add_argument("recipe", nargs="?", default="dcgan-64")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--precision", default="float32", choices=get_args(Precision))
    parser.add_argument("--gpu", default="H200 SXM")
    chosen = parser.parse_args(arguments)
    try:
        recipe, (gpu, peak) = get_recipe(chosen.recipe), find_gpu(chosen.gpu)
        found = step_lines(recipe, chosen.batch_size, peak, chosen.precision)
    except ValueError as error:
        print(f"fastgan explain: error: {error}", file=sys.stderr)
        return 2
    title = f"{recipe.name}, batch {chosen.batch_size}, {chosen.precision}, {gpu} ({peak.source})"
    modelled = peak if peak.multiprocessors and chosen.precision in LOWER else None
    print_step(title, found, modelled)
    return 0


if __name__ == "__main__":
    sys.exit(main())
