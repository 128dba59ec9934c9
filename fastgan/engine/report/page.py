"""The frame of a report: one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

# Of a picture as it lies in the page; larger ones are shrunk, and become JPEG beyond so many bytes.
_MAX_SIDE, _MAX_PNG = 1024, 60_000

STYLE = """
:root { color-scheme: light dark; --page: #fbfbf9; --card: #fff; --text: #1d1f23; --soft: #5d636e;
  --rule: #dcdde0; --accent: #1f5fbf; --warn: #fff4d6; --c0: #1f5fbf; --c1: #c2410c; --c2: #15803d;
  --c3: #8b3fbf; --c4: #a16207; --c5: #0f766e; }
@media (prefers-color-scheme: dark) { :root { --page: #14161a; --card: #1c1f25; --text: #e8e8e6;
  --soft: #a3a9b5; --rule: #343943; --accent: #7fb0ff; --warn: #3a3118; --c0: #7fb0ff;
  --c1: #ff9d6b; --c2: #6fd08c; --c3: #cf9bff; --c4: #e5c04b; --c5: #5fd4c4; } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif }
main { max-width: 76rem; margin: 0 auto; padding: 1.25rem }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .2rem 0; overflow-wrap: anywhere }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .7rem }
p { margin: .3rem 0 } a { color: var(--accent) } .soft { color: var(--soft) }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .7rem;
  margin: 1.1rem 0; padding: 0 }
.facts div, figure, .warn, .box { background: var(--card); border: 1px solid var(--rule);
  border-radius: .5rem; padding: .7rem .9rem; margin: 0; min-width: 0 }
.facts dt { color: var(--soft); font-size: .85rem } .facts dd { margin: 0; font-size: 1.15rem;
  font-weight: 600; overflow-wrap: anywhere }
.charts { display: grid; gap: .9rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)) }
.warn { background: var(--warn); margin-bottom: .6rem } .warn p:first-child { font-weight: 600 }
figcaption { font-weight: 600; margin-bottom: .3rem }
svg { width: 100%; height: auto; display: block } svg text { fill: var(--soft); font-size: 12px }
.rule { stroke: var(--rule) } .mark { stroke: var(--soft); stroke-dasharray: 4 4 }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round }
.c0 { stroke: var(--c0); --own: var(--c0) } .c1 { stroke: var(--c1); --own: var(--c1) }
.c2 { stroke: var(--c2); --own: var(--c2) } .c3 { stroke: var(--c3); --own: var(--c3) }
.c4 { stroke: var(--c4); --own: var(--c4) } .c5 { stroke: var(--c5); --own: var(--c5) }
.keys { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1rem; margin: .4rem 0 0;
  padding: 0; font-size: .88rem }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .35em;
  background: var(--own) }
.scrub img { display: block; max-width: 100%; width: 34rem; height: auto;
  image-rendering: pixelated; border-radius: .25rem }
.scrub input { width: min(100%, 34rem); margin: .7rem 0 .2rem; accent-color: var(--accent);
  height: 1.6rem }
.scrub img[hidden] { display: none }
table { border-collapse: collapse; width: 100%; font-size: .93rem }
th, td { text-align: left; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--rule);
  vertical-align: top; overflow-wrap: anywhere } th { font-weight: 500; color: var(--soft) }
.cells th, .cells td { min-width: 6rem } .cells tr > :nth-child(n + 3) { min-width: 8.5rem }
.wide { overflow-x: auto } .bar { background: var(--c0); height: .7rem; border-radius: 2px;
  min-width: 1px } td.share { width: 45% }
summary { cursor: pointer; padding: .3rem 0 } details.box { margin-bottom: .6rem }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px }
@media (max-width: 40rem) { main { padding: .8rem } td.share { width: 30% }
  svg text { font-size: 19px } }
@media print { .scrub img[hidden] { display: none } }
""".strip()

_SCRIPT = """
for (const box of document.querySelectorAll(".scrub")) {
  const range = box.querySelector("input"), images = box.querySelectorAll("img");
  if (!range) continue;
  const show = () => {
    images.forEach((image, i) => { image.hidden = i != range.value; });
    const text = images[range.value].dataset.step;
    box.querySelector("output").textContent = text;
    range.setAttribute("aria-valuetext", text);
  };
  range.addEventListener("input", show);
  range.hidden = false;
  show();
}
""".strip()


def whole_page(title: str, body: Iterable[str]) -> str:
    """The document around the parts of its body."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style></head>\n"
        f"<body><main>\n{chr(10).join(filter(None, body))}\n</main>\n<script>{_SCRIPT}</script>"
        "</body></html>\n"
    )


def section(title: str, *parts: str, kind: str = "") -> str:
    """A heading and what stands under it; "" where that is nothing."""
    found = [part for part in parts if part]
    if not found:
        return ""
    inner = "\n".join(found)
    return f"<section><h2>{escape(title)}</h2>\n" + (
        f'<div class="{kind}">\n{inner}\n</div></section>' if kind else f"{inner}\n</section>"
    )


def facts(values: Mapping[str, str]) -> str:
    """A few numbers in large type."""
    rows = (f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in values.items())
    return f'<dl class="facts">{"".join(rows)}</dl>'


def table(rows: Iterable[tuple[str, ...]], head: tuple[str, ...] = ()) -> str:
    """Rows of text, the first cell of each a heading."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = [f"<tr>{top}</tr>"] if head else []
    for first, *others in rows:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in others)
        lines.append(f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>')
    return f'<div class="wide"><table class="cells">{"".join(lines)}</table></div>'


def folded(title: str, inner: str, *, opened: bool = False) -> str:
    """What is shown when it is asked for."""
    state = " open" if opened else ""
    return f'<details class="box"{state}><summary>{escape(title)}</summary>{inner}</details>'


def scrubber(name: str, label: str, pictures: list[tuple[int, Path]]) -> str:
    """Pictures of one kind, moved through by a range input; without scripts the last one is seen.

    Args:
        name: for ids; no other scrubber of the page has it.
    """
    images = []
    for number, (step, path) in enumerate(pictures):
        hidden = "" if number == len(pictures) - 1 else " hidden"
        text = f"step {step:,}"
        images.append(
            f'<img src="{embedded(path)}" alt="{escape(label)}, {text}" data-step="{text}"{hidden}>'
        )
    last = len(pictures) - 1
    return (
        f'<div class="scrub box">{"".join(images)}<label for="{name}">{escape(label)}: '
        f'<output for="{name}">step {pictures[-1][0]:,}</output></label><br>'
        f'<input id="{name}" type="range" min="0" max="{last}" value="{last}" hidden></div>'
    )


def embedded(path: Path) -> str:
    """A picture as a data URI, small enough to stand among others."""
    content, kind = path.read_bytes(), "png"
    with Image.open(io.BytesIO(content)) as image:
        if len(content) > _MAX_PNG or max(image.size) > _MAX_SIDE:
            image.thumbnail((_MAX_SIDE, _MAX_SIDE))
            smaller, kind = io.BytesIO(), "jpeg"
            image.convert("RGB").save(smaller, format="JPEG", quality=88)
            content = smaller.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def as_text(value: Any) -> str:
    """A setting's value as a person writes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "—"
    if isinstance(value, dict):
        return ", ".join(f"{k} {as_text(v)}" for k, v in value.items()) or "—"
    if isinstance(value, (list, tuple)):
        return " × ".join(map(as_text, value)) or "—"
    return str(value)
