"""What pages show of docs/recipes.json: docs/recipes.md tables and a picture of each recipe, the
pages of applications what their recipes measure.

python -m tools.recipe_report.page    # writes what stands between the pages' marks
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.harness.page import filled, table

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "recipes.json"
PICTURES = ROOT / "docs" / "pictures"
PAGE = ROOT / "docs" / "recipes.md"
APPLICATIONS = ROOT / "docs" / "applications"
# Recipes that share a page.
TOGETHER = {"text-gan": "text", "text-rnn": "text", "srgan": "super-resolution"}
_COLUMNS = (
    *("recipe", "updates", "minutes", "FID", "KID", "IS"),
    *("sure", "classes", "right", "reconstruction"),
)
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
    rows = [_row(name, found) for name, found in results.items() if not _is_own(found)]
    lines = [table(_COLUMNS, rows), ""]
    if own := [_own_row(name, found) for name, found in results.items() if _is_own(found)]:
        lines += [
            "Recipes with scores of their own; their pages say what these are compared with:",
            "",
        ]
        lines += [table(["recipe", "updates", "minutes", "measured"], own), ""]
    for name, found in results.items():
        data, commands, start = f"--data {found['data']}", [], []
        data += f" --data-b {found['data_b']}" if "data_b" in found else ""
        if "before" in found:
            first, out = found["before"], f"runs/{name}-before"
            given = [data, f"--steps {first['steps']}", *found["flags"], *first["flags"]]
            commands = [[first.get("recipe", name), *given, f"--out {out}"]]
            start = [f"--init-from {out}", *["--init-networks generator"] * ("recipe" in first)]
        commands.append([name, data, f"--steps {found['steps']}", *found["flags"], *start])
        told = [" ".join(["    fastgan train", *given]) for given in commands]
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


def _updates(found: Result, times: str = "×") -> str:
    before = f"{found['before']['steps']:,} + " if "before" in found else ""
    return f"{before}{found['steps']:,} {times} {found['batch_size']}"


def _own_row(name: str, found: Result) -> list[str]:
    scores = found["scores"]
    measured = ", ".join(f"{metric} {scores[metric]:.4g}" for metric in _of_generated(scores))
    link = f"[`{name}`](applications/{TOGETHER.get(name, name)}.md)"
    return [link, _updates(found), f"{found['minutes']:g}", measured]


def _row(name: str, found: Result) -> list[str]:
    scores, goals = found["scores"], found["goals"]

    def cell(metric: str, form: str) -> str:
        if metric not in scores:
            return ""
        text = form.format(scores[metric])
        return f"**{text}**" if goals.get(metric, {}).get("reached") else text

    forms = {"psnr": "{:.1f} dB", "ssim": "SSIM {:.3f}", "elbo": "{:.1f} nats"}
    forms["sharper"] = "{:.2f} times as sharp as where it started"
    forms["gain"] = f"{{:+.2f}} dB against {found.get('baseline', '').replace('_', ' ')}"
    rebuilt = [cell(metric, form) for metric, form in forms.items()]
    return [
        f"`{name}`",
        _updates(found),
        f"{found['minutes']:g}",
        cell("fid", "{:.1f}"),
        cell("kid", "{:.4f}"),
        cell("is", "{:.2f}"),
        cell("confident", "{:.1%}"),
        cell("classes", "{:.0f}"),
        cell("accuracy", "{:.1%}"),
        ", ".join(filter(None, rebuilt)),
    ]


def _told(found: Result, reals: str = "") -> str:
    """What a table is of."""
    threads = "one CPU thread" if found["threads"] == 1 else f"{found['threads']} CPU threads"
    updates = _updates(found, "updates of batch")
    return f"After {updates}, {found['minutes']:g} minutes of {threads}{reals}:"


def ways(found: Result) -> str:
    """The generator beside what needs no training: a table of the scores that have both."""
    scores, baselines = found["scores"], [""]
    baselines += [n.removeprefix("psnr_y_") for n in found["scores"] if n.startswith("psnr_y_")]
    forms = {"psnr": "{:.2f}", "ssim": "{:.4f}", "psnr_y": "{:.2f}", "ssim_y": "{:.4f}"}
    forms |= {"sharpness": "{:.1f}"} if "sharpness" in scores else {}
    body = []
    for name in baselines:
        names = [f"{metric}_{name}" if name else metric for metric in forms]
        cells = [form.format(scores[n]) for n, form in zip(names, forms.values(), strict=True)]
        body.append([name.replace("_", " ") or "the network", *cells])
    if "sharpness_real" in scores:
        blank = [""] * (len(forms) - 1)
        body.append(["the images", *blank, f"{scores['sharpness_real']:.1f}"])
    told = _told(found, f", {found['setting']['reals']} images")
    return f"{told}\n\n{table(['', *(_HEADINGS[metric] for metric in forms)], body)}"


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
    body = [[name, *(form.format(scores[w]) for w in ways)] for name, (form, *ways) in rows.items()]
    right = f"of which the classifier is right about {scores['accuracy']:.1%}"
    told = _told(found, f", {found['setting']['reals']} held-out images, {right}")
    return f"{told}\n\n{table(['', 'A to B', 'B to A'], body)}"


def in_style(found: Result) -> str:
    """A generator towards a style beside what needs no training: a table of both losses."""
    rows = {"the network": "", "the image as it is": "_unchanged", "the picture": "_picture"}
    kinds = ("content", "style")
    body = [[n, *(f"{found['scores'][k + way]:.4f}" for k in kinds)] for n, way in rows.items()]
    told = _told(found, f", {found['setting']['reals']} held-out images")
    return f"{told}\n\n{table(['', *kinds], body)}"


def beside(found: Result) -> str:
    """Each score of what was generated, beside the same of what it is to be compared with."""
    scores, names = found["scores"], _of_generated(found["scores"])
    others = [n.removeprefix(name) for name in names for n in scores if n.startswith(f"{name}_")]
    columns = ["", *dict.fromkeys(others)]
    body = [
        [f"`{name}`", *(f"{scores[name + c]:.4g}" if name + c in scores else "" for c in columns)]
        for name in names
    ]
    heading = ["", *(f"`{column}`" if column else "generated" for column in columns)]
    return f"{_told(found)}\n\n{table(heading, body)}"


def beside_goals(found: Result) -> str:
    """Each score of samples, beside what was to be reached."""

    def asked(goal: dict[str, Any]) -> str:
        bound = f"≥ {goal['least']:g}" if "least" in goal else f"≤ {goal['most']:g}"
        return bound if goal["reached"] else f"{bound}: missed"

    body = [
        [f"`{name}`", f"{value:.4g}", asked(found["goals"][name]) if name in found["goals"] else ""]
        for name, value in found["scores"].items()
    ]
    setting = found["setting"]
    told = _told(found, f", {setting['fakes']:,} samples against {setting['reals']:,} images")
    return f"{told}\n\n{table(['', 'reached', 'goal'], body)}"


def _of_generated(scores: dict[str, float]) -> list[str]:
    """The scores but those of what is not generated: `kl2`, not `kl2_floor`."""
    return [n for n in scores if not any(n.startswith(f"{other}_") for other in scores)]


def table_of(found: Result) -> str:
    """What stands between the marks of an application's page."""
    if "style" in found["scores"]:
        return in_style(found)
    if "fooled_a" in found["scores"]:
        return both_ways(found)
    if any("most" in goal for goal in found.get("goals", {}).values()):
        return beside_goals(found)
    return ways(found) if "gain" in found["scores"] else beside(found)


def application(name: str) -> Path:
    """The page of a recipe's application, which not all have."""
    return APPLICATIONS / f"{TOGETHER.get(name, name)}.md"


def renew_table(text: str, name: str, found: Result) -> str:
    """The page of an application with a recipe's `table_of` between its marks."""
    mark = f"{MARK}: {name}" if name in TOGETHER else MARK
    return filled(text, mark, table_of(found))


def renew(text: str, results: dict[str, Result]) -> str:
    """``text`` with what stands between its marks made anew."""
    return filled(text, MARK, render(results).rstrip())


def main() -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    PAGE.write_text(renew(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")
    for name, found in results.items():
        if (page := application(name)).exists():
            text = renew_table(page.read_text(encoding="utf-8"), name, found)
            page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
