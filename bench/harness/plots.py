"""Pictures of results. Needs matplotlib: pip install 'fastgan[plot]'."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot

from bench.harness.page import cases
from bench.harness.results import Row

matplotlib.use("agg")
FASTER, EQUAL, SLOWER = "#0b6e4f", "#9aa5b1", "#c1121f"


def ratios(rows: Sequence[Row], path: Path) -> None:
    """Each case: the time of the fastest peer over ours, with its interval."""
    found = []
    for case, group in cases([row for row in rows if "seconds" in row]):
        own = next((row["implementation"] for row in group if row["own"]), None)
        peers = [(row["ratio"][own], row["implementation"]) for row in group if not row["own"]]
        if own is not None and peers:
            name = f"{case['op']} {case['shape']} {case['part']}, {case['dtype']}, {case['layout']}"
            found.append((name, *min(peers)))
    with _figure(path, len(found)) as axes:
        for y, (_, (value, low, high), peer) in enumerate(found):
            color = FASTER if low > 1 else EQUAL if high >= 1 else SLOWER
            error = [[value - low], [high - value]]
            axes.errorbar(value, y, xerr=error, fmt="o", color=color, markersize=4)
            axes.annotate(f" {peer}", (high, y), fontsize=6, va="center", color=EQUAL)
        axes.set_yticks(range(len(found)), [name for name, *_ in found], fontsize=6)
        axes.set_ylim(len(found) - 0.4, -0.9)
        axes.axvline(1.0, color=EQUAL, linewidth=0.8)
        axes.set_xlabel("time of the fastest peer / ours, 95 % interval")


def quality(rows: Sequence[Row], path: Path) -> None:
    """The metric over the seconds of training, by arm."""
    with _figure(path, 10) as axes:
        for arm in dict.fromkeys(row["arm"] for row in rows):
            points = [(r["seconds"], r["metrics"][r["metric"]]) for r in rows if r["arm"] == arm]
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=arm)
        axes.set_xlabel("seconds of training")
        axes.set_ylabel(rows[0]["metric"])
        axes.legend(fontsize=7)


@contextmanager
def _figure(path: Path, lines: int) -> Iterator[Any]:
    """Axes of a figure with room for so many lines, saved as SVG: the same file for the same
    data and the same matplotlib."""
    with pyplot.rc_context({"svg.hashsalt": "fastgan", "svg.fonttype": "none", "font.size": 8}):
        figure, axes = pyplot.subplots(figsize=(7.5, 1.0 + 0.17 * lines), layout="constrained")
        yield axes
        axes.spines[["top", "right"]].set_visible(False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)
