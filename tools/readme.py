"""The README's picture and its measured table, made of what is committed: `python -m tools.readme`.

The picture is cut from the pages' own sample grids; the numbers are those of bench/results/ and
docs/recipes.json.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import geometric_mean

from PIL import Image

from bench.harness.page import Run, committed, filled, table

ROOT = Path(__file__).resolve().parent.parent
README, PICTURE = ROOT / "README.md", ROOT / "docs" / "pictures" / "readme.png"
# The benchmarks in the table: a machine on which neither was run has no column.
_TIMED = ("dcgan_step", "norm_act")
# Recipes whose samples are shown, with how much of their grids: width and height.
_SHOWN, _CUT, _GAP = ("dcgan-28", "acgan", "projection"), (362, 242), 12
_PEERS = {"eager (channels last)": "eager PyTorch", "compiled (channels last)": "torch.compile"}


def picture(folder: Path = PICTURE.parent) -> Image.Image:
    """Corners of the grids side by side."""
    width, height = _CUT
    made = Image.new("RGB", (len(_SHOWN) * (width + _GAP) - _GAP, height), "white")
    for place, name in enumerate(_SHOWN):
        with Image.open(folder / f"{name}.png") as grid:
            corner = grid.convert("RGB").crop((0, 0, width, height))
        made.paste(corner, (place * (width + _GAP), 0))
    return made


def measured(runs: Sequence[Run]) -> str:
    """How many times as fast: a row a thing that was timed, a column a machine."""
    runs = [run for run in runs if run.module in _TIMED]
    machines = list(dict.fromkeys(run.folder for run in runs))
    rows = []
    for dtype in ("float32", "bfloat16"):
        for peer, name in _PEERS.items():
            what = f"a training step of DCGAN-64 at batch 64, {dtype}, over {name}"
            found = {m: _ratios(runs, m, "dcgan_step", dtype, peer, "batch 64") for m in machines}
            rows.append([what, *(_mean(found[m]) for m in machines)])
    what = "batch norm + LeakyReLU, forward and backward, over eager PyTorch, mean of its cases"
    found = {m: _ratios(runs, m, "norm_act", "", "eager", "") for m in machines}
    rows.append([what, *(_mean(found[m]) for m in machines)])
    names = {run.folder: run.run["machine"] for run in runs}
    head = [f"{m['name']} (family {m['family']}, {m['instructions']})" for m in names.values()]
    return table(["times as fast, two cores", *head], rows)


def reached(path: Path = ROOT / "docs" / "recipes.json") -> str:
    """What the recipes of the picture reached, in words."""
    recipes = json.loads(path.read_text(encoding="utf-8"))
    told = [
        f"`{name}`, {recipes[name]['minutes']:g} minutes, FID {recipes[name]['scores']['fid']:.1f}"
        for name in _SHOWN
    ]
    return f"MNIST on a CPU of two cores ({'; '.join(told)}, in LeNet's features)."


def made(page: str) -> str:
    """The README with its regions made anew."""
    page = filled(page, "made: reached", reached())
    return filled(page, "made: measured", measured(committed()))


def main() -> int:
    picture().save(PICTURE, optimize=True)
    README.write_text(made(README.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


def _ratios(
    runs: Sequence[Run], machine: str, module: str, dtype: str, peer: str, shape: str
) -> list[float]:
    return [
        row["ratio"]["fused"][0]
        for run in runs
        if (run.folder, run.module) == (machine, module)
        for row in run.rows
        if row.get("implementation") == peer
        and "fused" in row.get("ratio", {})
        and dtype in row["case"]["dtype"]
        and shape in row["case"]["shape"]
        and (shape or row["case"]["part"] == "forward + backward")
    ]


def _mean(ratios: Sequence[float]) -> str:
    return f"{geometric_mean(ratios):.2f}" if ratios else "—"


if __name__ == "__main__":
    raise SystemExit(main())
