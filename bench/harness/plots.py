"""Plots of results: how many times faster, share of the roofline, where a step's time goes.

    python -m bench.harness.plots FOLDER     of the results in a folder, into it

Needs matplotlib: pip install 'fastgan[plot]'.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.harness import results
from bench.harness.results import Row

OWN, PEER, FLOOR = "#0b6e4f", "#9aa5b1", "#c1121f"
Plot = Callable[[Sequence[Row], Path], bool]


def draw_all(rows: Sequence[Row], folder: Path, stem: str) -> list[Path]:
    """Every plot for which there are rows."""
    plots = {"ratios": ratios, "roofline": roofline, "waterfall": waterfall, "quality": quality}
    paths = {name: folder / f"{stem}-{name}.svg" for name in plots}
    return [paths[name] for name, plot in plots.items() if plot(rows, paths[name])]


def ratios(rows: Sequence[Row], path: Path) -> bool:
    """Each case: the time of the fastest peer over ours, with its interval."""
    found = [
        (label(row), strongest["ratio"][row["implementation"]], strongest["implementation"])
        for row, strongest in compared(rows)
    ]
    if not found:
        return False
    with _figure(path, len(found)) as axes:
        for y, (_, (value, low, high), peer) in enumerate(found):
            color = OWN if low > 1 else PEER if high >= 1 else FLOOR
            axes.errorbar(
                value, y, xerr=[[value - low], [high - value]], fmt="o", color=color, markersize=4
            )
            axes.annotate(f" {peer}", (high, y), fontsize=6, va="center", color=PEER)
        _rows(axes, [name for name, *_ in found])
        axes.axvline(1.0, color=PEER, linewidth=0.8)
        axes.set_xlabel("time of the fastest peer / ours, 95 % interval")
    return True


def roofline(rows: Sequence[Row], path: Path) -> bool:
    """Each case: the share of the roofline that ours and the fastest peer reach."""
    found = [
        (label(row), row["share_of_roofline"], strongest["share_of_roofline"])
        for row, strongest in compared(rows)
        if "share_of_roofline" in row
    ]
    if not found:
        return False
    with _figure(path, len(found)) as axes:
        at = range(len(found))
        axes.barh([y - 0.2 for y in at], [own for _, own, _ in found], 0.4, color=OWN, label="ours")
        peers = [peer for *_, peer in found]
        axes.barh([y + 0.2 for y in at], peers, 0.4, color=PEER, label="fastest peer")
        _rows(axes, [name for name, *_ in found])
        axes.axvline(1.0, color=FLOOR, linewidth=0.8)
        axes.set_xlabel("least time that the machine's bandwidth and arithmetic allow / time")
        axes.legend(fontsize=7, loc="best")
    return True


def waterfall(rows: Sequence[Row], path: Path) -> bool:
    """A training step, part after part, of each implementation that was broken down."""
    found = [row for row in rows if row["kind"] == "breakdown"]
    if not found:
        return False
    with _figure(path, 8 * len(found)) as axes:
        labels, y = [], 0
        for row in found:
            end, parts = 0.0, {part: s for part, s in row["parts"].items() if s > 0}
            for part, seconds in parts.items():
                axes.barh(y, seconds * 1e3, left=end, color=OWN if row["own"] else PEER)
                axes.text(end + seconds * 1e3, y, f" {seconds * 1e3:.1f}", fontsize=6, va="center")
                end += seconds * 1e3
                labels.append(part)
                y += 1
            name = f"{row['implementation']}, {row['case']['dtype']}: {end:.0f} ms"
            axes.text(0.0, y - len(parts) - 0.6, name, fontsize=7, fontweight="bold")
            labels.append("")
            y += 1
            if "floor" in row:
                axes.vlines(row["floor"] * 1e3, y - len(parts) - 1.5, y - 1.5, color=FLOOR)
        _rows(axes, labels)
        axes.set_xlabel("ms of a step; red: the least that its convolutions, as defined, need here")
    return True


def quality(rows: Sequence[Row], path: Path) -> bool:
    """The metric over the seconds of training, by arm."""
    arms: dict[str, list[Row]] = {}
    for row in rows:
        if row["kind"] == "quality":
            arms.setdefault(row["arm"], []).append(row)
    if not arms:
        return False
    with _figure(path, 10) as axes:
        for arm, points in arms.items():
            axes.plot(
                [p["seconds"] for p in points],
                [p["metrics"][p["metric"]] for p in points],
                marker="o", markersize=3, label=arm,
            )  # fmt: skip
        axes.set_xlabel("seconds of training")
        axes.set_ylabel(next(iter(arms.values()))[0]["metric"])
        axes.legend(fontsize=7)
    return True


def compared(rows: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """For each case: our first implementation that has a time, and the fastest peer."""
    cases: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row["kind"] == "case" and "seconds" in row:
            cases.setdefault(results.key(row)[:-1], []).append(row)
    for group in cases.values():
        own = next((row for row in group if row["own"]), None)
        peers = [row for row in group if not row["own"]]
        if own is not None and peers:
            yield own, min(peers, key=lambda row: row["ratio"][own["implementation"]][0])


def label(row: Row) -> str:
    case = row["case"]
    return f"{case['op']} {case['shape']} {case['part']}, {case['dtype']}, {case['layout']}"


@contextmanager
def _figure(path: Path, lines: int) -> Iterator[Any]:
    """Axes of a figure with room for so many lines, saved as SVG: the same file for the same
    data and the same matplotlib."""
    pyplot = _pyplot()
    with pyplot.rc_context({"svg.hashsalt": "fastgan", "svg.fonttype": "none", "font.size": 8}):
        figure, axes = pyplot.subplots(figsize=(7.5, 1.0 + 0.17 * lines), layout="constrained")
        try:
            yield axes
            axes.spines[["top", "right"]].set_visible(False)
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, metadata={"Date": None})
        finally:
            pyplot.close(figure)


def _rows(axes: Any, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names, fontsize=6)
    axes.set_ylim(len(names) - 0.4, -0.9)


def _pyplot() -> Any:
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "plots need matplotlib: pip install 'fastgan[plot]'", name="matplotlib"
        ) from None
    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot


def main() -> int:
    parser = argparse.ArgumentParser(prog="fastgan bench --plot")
    parser.add_argument("folder", type=Path)
    chosen = parser.parse_args()
    try:
        _, rows = results.read(chosen.folder)
        drawn = draw_all(rows, chosen.folder, "plot")
    except (OSError, ValueError, ModuleNotFoundError) as error:
        print(f"fastgan bench: error: {error}", file=sys.stderr)
        return 2
    for path in drawn:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
