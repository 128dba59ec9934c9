"""What docs/recipes.md shows of docs/recipes.json: a table, and a picture of each recipe.

python -m tools.recipe_report.page    # writes the part of the page between its two marks
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "recipes.json"
PICTURES = ROOT / "docs" / "pictures"
PAGE = ROOT / "docs" / "recipes.md"
BEGIN, END = "<!-- made by tools/recipe_report -->\n", "<!-- end -->\n"

Result = dict[str, Any]


def render(results: dict[str, Result]) -> str:
    columns = "updates | minutes | FID | KID | IS | sure | classes | right | reconstruction"
    lines = [
        f"| recipe | {columns} |",
        "|" + "---|" * 10,
        *(_row(name, found) for name, found in results.items() if not _is_own(found)),
        "",
    ]
    if own := [_own_row(name, found) for name, found in results.items() if _is_own(found)]:
        lines += ["Of what is no image, what its recipe measures; each has a page of its own:", ""]
        lines += ["| recipe | updates | minutes | measured |", "|---|---|---|---|", *own, ""]
    for name, found in results.items():
        given = f"--data {found['data']}", f"--steps {found['steps']}", *found["flags"]
        command = " ".join(["fastgan train", name, *given])
        shown = "images and their reconstructions" if "psnr" in found["scores"] else "samples"
        lines += [f"### `{name}`", "", f"    {command}", ""]
        texts = [f"    {line}" for line in found.get("samples", ())]
        lines += texts or [f"![{name}: {shown}](pictures/{name}.png)"]
        lines += [""]
    return "\n".join(lines)


def _is_own(found: Result) -> bool:
    """Whether a recipe measures what no other does, as its items are no images."""
    return not found["scores"].keys() & {"fid", "kid", "psnr"}


def _own_row(name: str, found: Result) -> str:
    measured = ", ".join(f"{metric} {value:.4g}" for metric, value in found["scores"].items())
    updates = f"{found['steps']:,} × {found['batch_size']}"
    return f"| `{name}` | {updates} | {found['minutes']:g} | {measured} |"


def _row(name: str, found: Result) -> str:
    scores, goals = found["scores"], found["goals"]

    def cell(metric: str, form: str) -> str:
        if metric not in scores:
            return ""
        text = form.format(scores[metric])
        return f"**{text}**" if goals.get(metric, {}).get("reached") else text

    rebuilt = [cell("psnr", "{:.1f} dB"), cell("ssim", "SSIM {:.3f}"), cell("elbo", "{:.1f} nats")]
    cells = [
        f"`{name}`",
        f"{found['steps']:,} × {found['batch_size']}",
        f"{found['minutes']:g}",
        cell("fid", "{:.1f}"),
        cell("kid", "{:.4f}"),
        cell("is", "{:.2f}"),
        cell("confident", "{:.1%}"),
        cell("classes", "{:.0f}"),
        cell("accuracy", "{:.1%}"),
        ", ".join(filter(None, rebuilt)),
    ]
    return "| " + " | ".join(cells) + " |"


def renew(text: str, results: dict[str, Result]) -> str:
    """``text`` with what stands between its marks made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + render(results) + "\n" + END + after


def main() -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    PAGE.write_text(renew(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")


if __name__ == "__main__":
    main()
