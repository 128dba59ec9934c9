"""Curves as SVG, made by hand: a few lines, an axis each way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

from fastgan.engine.report.record import Points

_WIDTH, _HEIGHT = 640, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 10, 10, 28
_MAX_POINTS = 320
_CHARACTER = 11  # at most, of a label on a phone: page.STYLE has 19 px there
# Of the values that an axis spans: the rest, such as the first steps' peaks, is cut.
_SHOWN = 0.99


WATCHED = {
    "The discriminator's accuracy": {
        "real images": "accuracy_real",
        "generated": "accuracy_fake",
    },
    "Norms of gradients": {"generator": "grad_g", "discriminator": "grad_d"},
    "Largest spectral norms": {"generator": "spectral_g", "discriminator": "spectral_d"},
    "Samples beside real images (1: as far apart)": {
        "from each other": "spread",
        "from the nearest real one": "nearest",
    },
    "Samples that are all but copies of the data": {"share": "copied"},
}
"""What --watch-every measures, by charts: a line's label and its name in metrics.jsonl."""


def chart(title: str, lines: Mapping[str, Points], *, mark: float | None = None) -> str:
    """A figure with a line a series over the steps; "" where no value is finite.

    A gap is left where values are not finite. ``mark`` is a step to point at.
    """
    drawn = {name: _thinned(points) for name, points in lines.items()}
    values = sorted(v for points in drawn.values() for _, v in points if math.isfinite(v))
    if not values:
        return ""
    steps = [step for points in drawn.values() for step, _ in points]
    cut = int(len(values) * (1 - _SHOWN) / 2)
    up = _Axis(values[cut], values[-1 - cut], _HEIGHT - _BOTTOM, _TOP, padded=True)
    left = max(_LEFT, 12 + _CHARACTER * up.longest_label())
    across = _Axis(min(steps), max(steps), left, _WIDTH - _RIGHT)
    parts = [_grid(across, up)]
    if mark is not None and across.low <= mark <= across.high:
        x = across.at(mark)
        parts.append(f'<line class="mark" x1="{x}" x2="{x}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
    for number, points in enumerate(drawn.values()):
        parts.append(f'<path class="line c{number % 6}" d="{_path(points, across, up)}"/>')
    keys = "".join(
        f'<li><span class="key c{number % 6}"></span>{escape(name)} {_last(lines[name])}</li>'
        for number, name in enumerate(drawn)
    )
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
        f'{"".join(parts)}</svg><ul class="keys">{keys}</ul></figure>'
    )


def number(value: float) -> str:
    """A number for people, with about four digits."""
    if not math.isfinite(value):
        return "not finite"
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


class _Axis:
    """Values from low to high, at places from start to end."""

    def __init__(self, low: float, high: float, start: int, end: int, padded: bool = False) -> None:
        if padded:
            pad = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
            # What is never below zero, such as a norm, has no room there.
            low, high = max(low - pad, 0.0) if low >= 0 else low - pad, high + pad
        elif low == high:
            high = low + 1
        self.low, self.high, self.start, self._end = low, high, start, end

    def at(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.start + share * (self._end - self.start), 1)

    def ticks(self) -> list[float]:
        """About four round values."""
        rough = (self.high - self.low) / 4
        power = 10.0 ** math.floor(math.log10(rough))
        width = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
        first = math.ceil(self.low / width)
        return [k * width for k in range(first, math.floor(self.high / width) + 1)]

    def longest_label(self) -> int:
        return max((len(number(value)) for value in self.ticks()), default=0)


def _grid(across: _Axis, up: _Axis) -> str:
    parts, left = [], across.start
    for value in up.ticks():
        y = up.at(value)
        parts.append(f'<line class="rule" x1="{left}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{number(value)}</text>')
    for value in across.ticks():
        text, x = number(value), across.at(value)
        inside = x + _CHARACTER * len(text) / 2 <= _WIDTH
        where = f'x="{x}"' if inside else f'x="{_WIDTH}"'
        anchor = "middle" if inside else "end"
        parts.append(f'<text {where} y="{_HEIGHT - 8}" text-anchor="{anchor}">{text}</text>')
    return "".join(parts)


def _path(points: Points, across: _Axis, up: _Axis) -> str:
    parts, pen = [], "M"
    for step, value in points:
        if not math.isfinite(value):
            pen = "M"
            continue
        parts.append(f"{pen}{across.at(step)} {up.at(value)}")
        pen = "L"
        if len(parts) == 1 or parts[-1][0] == "M":
            parts.append("h0.1")  # a point alone is seen, too
    return "".join(parts)


def _thinned(points: Points) -> Points:
    """At most so many points: means of neighbours, NaN where any of them is."""
    size = math.ceil(len(points) / _MAX_POINTS)
    if size <= 1:
        return points
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(g[-1][0], sum(value for _, value in g) / len(g)) for g in groups]


def _last(points: Points) -> str:
    return f"<b>{number(points[-1][1])}</b>" if points else ""
