"""python -m bench.roofline [RECIPE]: every kernel of a training step, with its roofline bound."""

from __future__ import annotations

import argparse
import sys
from typing import get_args

from bench.roofline.step import print_roofline
from fastgan.engine.device import take_device
from fastgan.engine.precision import Precision
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
        device = take_device("cpu" if chosen.gpu else chosen.device)
        recipe = get_recipe(chosen.recipe)
        print_roofline(recipe, chosen.batch_size, device, chosen.precision, chosen.gpu)
    except ValueError as error:
        print(f"fastgan explain: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
