"""What docs/recipes.md shows of docs/recipes.json: a table, and a picture of each recipe.

python -m tools.recipe_report.page    # writes the part of the page between its two marks
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.harness.page import filled

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
MARK = "made by tools/recipe_report"

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
        data += f" --data-b {found['data_b']}" if "data_b" in found else ""
        if "before" in found:
            first, out = found["before"], f"runs/{name}-before"
            given = [data, f"--steps {first['steps']}", *found["flags"], *first["flags"]]
            commands, start = [[*given, f"--out {out}"]], [f"--init-from {out}"]
        commands.append([data, f"--steps {found['steps']}", *found["flags"], *start])
        told = [" ".join(["    fastgan train", name, *given]) for given in commands]
        shown = "images and their reconstructions" if "psnr" in found["scores"] else "samples"
        if "gain" in found["scores"]:
            shown = "what it was given, what it made, and the image, of images that it has not seen"
        if "fooled_a" in found["scores"]:
            shown = "what it was given, what it made, and what it made of that, of held-out images"
        if "style" in found["scores"]:
            shown = "what it was given, what it made, and the picture of the style"
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


def both_ways(found: Result) -> str:
    """The two generators between two domains: a table of what is measured of each."""
    scores = found["scores"]
    rows = {
        "taken for the other set's": ("{:.1%}", "fooled_b", "fooled_a"),
        "images as they are": ("{:.1%}", "unchanged_b", "unchanged_a"),
        "PSNR of what came back, dB": ("{:.2f}", "psnr_a", "psnr_b"),
        "SSIM of what came back": ("{:.4f}", "ssim_a", "ssim_b"),
        "PSNR of what was made, dB": ("{:.2f}", "kept_b", "kept_a"),
    }
    lines = [
        f"After {found['steps']:,} updates of {found['batch_size']} images of each set in "
        f"{found['minutes']:g} minutes of one CPU thread, {found['setting']['reals']} held-out "
        f"images, of which the classifier is right about {scores['accuracy']:.1%}:",
        "",
        "| | A to B | B to A |",
        "|---|---|---|",
    ]
    for name, (form, *ways) in rows.items():
        lines.append(f"| {name} | " + " | ".join(form.format(scores[way]) for way in ways) + " |")
    return "\n".join(lines) + "\n"


def in_style(found: Result) -> str:
    """A generator towards a style beside what needs no training: a table of both losses."""
    scores = found["scores"]
    rows = {"the network": "", "the image as it is": "_unchanged", "the picture": "_picture"}
    lines = [
        f"After {found['steps']:,} updates of {found['batch_size']} images in {found['minutes']:g} "
        f"minutes of one CPU thread, {found['setting']['reals']} held-out images:",
        "",
        "| | content | style |",
        "|---|---|---|",
    ]
    for name, way in rows.items():
        content, style = (scores[f"{metric}{way}"] for metric in ("content", "style"))
        lines.append(f"| {name} | {content:.4f} | {style:.4f} |")
    return "\n".join(lines) + "\n"


def table_of(found: Result) -> str | None:
    """What stands between the marks of an application's page, if it has them."""
    if "style" in found["scores"]:
        return in_style(found)
    if "fooled_a" in found["scores"]:
        return both_ways(found)
    return ways(found) if "gain" in found["scores"] else None


def renew_table(text: str, table: str) -> str:
    """The page of an application with its `table_of` between its marks."""
    return filled(text, MARK, table.rstrip())


def renew(text: str, results: dict[str, Result]) -> str:
    """``text`` with what stands between its marks made anew."""
    return filled(text, MARK, render(results).rstrip())


def main() -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    PAGE.write_text(renew(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")
    for name, found in results.items():
        if (table := table_of(found)) is not None:
            page = APPLICATIONS / f"{name}.md"
            text = renew_table(page.read_text(encoding="utf-8"), table)
            page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
