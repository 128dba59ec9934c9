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
APPLICATIONS = ROOT / "docs" / "applications"
_HEADINGS = {
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "psnr_y": "PSNR of Y, dB",
    "ssim_y": "SSIM of Y",
    "sharpness": "sharpness",
}
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
        data, commands, start = f"--data {found['data']}", [], []
        if "before" in found:
            first, out = found["before"], f"runs/{name}-before"
            given = [data, f"--steps {first['steps']}", *found["flags"], *first["flags"]]
            commands, start = [[*given, f"--out {out}"]], [f"--init-from {out}"]
        commands.append([data, f"--steps {found['steps']}", *found["flags"], *start])
        told = [" ".join(["    fastgan train", name, *given]) for given in commands]
        shown = "images and their reconstructions" if "psnr" in found["scores"] else "samples"
        if "gain" in found["scores"]:
            shown = "what it was given, what it made, and the image, of images that it has not seen"
        lines += [f"### `{name}`", "", *told, ""]
        texts = [f"    {line}" for line in found.get("samples", ())]
        lines += texts or [f"![{name}: {shown}](pictures/{name}.png)"]
        lines += [""]
    return "\n".join(lines)


def _is_own(found: Result) -> bool:
    """Whether a recipe measures what no other does, as its items are no images."""
    return not found["scores"].keys() & {"fid", "kid", "psnr"}


def _own_row(name: str, found: Result) -> str:
    measured = ", ".join(f"{metric} {value:.4g}" for metric, value in found["scores"].items())
    before = f"{found['before']['steps']:,} + " if "before" in found else ""
    updates = f"{before}{found['steps']:,} × {found['batch_size']}"
    return f"| `{name}` | {updates} | {found['minutes']:g} | {measured} |"


def _row(name: str, found: Result) -> str:
    scores, goals = found["scores"], found["goals"]

    def cell(metric: str, form: str) -> str:
        if metric not in scores:
            return ""
        text = form.format(scores[metric])
        return f"**{text}**" if goals.get(metric, {}).get("reached") else text

    forms = {"psnr": "{:.1f} dB", "ssim": "SSIM {:.3f}", "elbo": "{:.1f} nats"}
    forms["gain"] = f"{{:+.2f}} dB against {found.get('baseline', '').replace('_', ' ')}"
    rebuilt = [cell(metric, form) for metric, form in forms.items()]
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


def ways(found: Result) -> str:
    """The generator beside what needs no training: a table of the scores that have both."""
    scores, baselines = found["scores"], [""]
    baselines += [n.removeprefix("psnr_y_") for n in found["scores"] if n.startswith("psnr_y_")]
    forms = {"psnr": "{:.2f}", "ssim": "{:.4f}", "psnr_y": "{:.2f}", "ssim_y": "{:.4f}"}
    forms |= {"sharpness": "{:.1f}"} if "sharpness" in scores else {}
    lines = [
        f"After {found['steps']:,} updates of {found['batch_size']} images in {found['minutes']:g} "
        f"minutes of one CPU thread, {found['setting']['reals']} images:",
        "",
        "| | " + " | ".join(_HEADINGS[metric] for metric in forms) + " |",
        "|" + "---|" * (len(forms) + 1),
    ]
    for name in baselines:
        cells = [
            form.format(scores[f"{metric}_{name}" if name else metric])
            for metric, form in forms.items()
        ]
        lines.append(f"| {name.replace('_', ' ') or 'the network'} | " + " | ".join(cells) + " |")
    if "sharpness_real" in scores:
        blank = " | " * (len(forms) - 1)
        lines.append(f"| the images | {blank}{scores['sharpness_real']:.1f} |")
    return "\n".join(lines) + "\n"


def renew_ways(text: str, found: Result) -> str:
    """The page of an application with `ways` between its marks."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + ways(found) + END + rest.partition(END)[2]


def renew(text: str, results: dict[str, Result]) -> str:
    """``text`` with what stands between its marks made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + render(results) + "\n" + END + after


def main() -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    PAGE.write_text(renew(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")
    for name, found in results.items():
        if "gain" in found["scores"]:
            page = APPLICATIONS / f"{name}.md"
            text = renew_ways(page.read_text(encoding="utf-8"), found)
            page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
