"""The tables of docs/benchmarks.md, made of bench/results/: `python -m bench.harness.page`.

The page's own words stand in it; what lies between two marks is written by this. Each folder of
bench/results/ but `local` is one machine.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import geometric_mean, mean
from typing import NamedTuple

from bench.harness import results
from bench.harness.machine import ROOT, in_words, named
from bench.harness.results import Row

PAGE = ROOT / "docs" / "benchmarks.md"
NOTHING = "Not measured yet."
BEYOND = (
    "† Beyond the bound: second reads came from a cache, Winograd did fewer operations than the "
    "definition, or other work held the machine when its rates were measured."
)


class Run(NamedTuple):
    """One file of results."""

    folder: str
    module: str
    run: Row
    rows: list[Row]


def committed(folder: Path = results.FOLDER) -> list[Run]:
    """Every run of bench/results/, machine by machine."""
    files = [path for path in sorted(folder.glob("*/*.jsonl")) if path.parent.name != "local"]
    return [Run(path.parent.name, path.stem, *results.read(path)) for path in files]


def made(page: str, runs: Sequence[Run]) -> str:
    """The page with every region made anew. ValueError for a region that is not known."""
    for name in re.findall(r"<!-- made: (\w+) -->", page):
        if name not in REGIONS and name != "machines":
            raise ValueError(f"{PAGE.name}: unknown region {name!r}: {', '.join(REGIONS)}")
        text = machines(runs) if name == "machines" else region(name, runs)
        page = filled(page, f"made: {name}", text)
    return page


def filled(page: str, name: str, text: str) -> str:
    """The page with another text between the marks <!-- name --> and <!-- end -->."""
    marks = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    return marks.sub(lambda m: f"{m[1]}\n{text}\n\n{m[2]}", page)


def region(name: str, runs: Sequence[Run]) -> str:
    """What a region holds: tables of its own for each machine where there are several."""
    modules, make = REGIONS[name]
    found = []
    for folder in dict.fromkeys(run.folder for run in runs):
        if mine := [run for run in runs if run.folder == folder and run.module in modules]:
            text = make([row for run in mine for row in run.rows])
            found.append((named(mine[0].run["machine"]), text))
    if len(found) < 2:
        return found[0][1] if found else NOTHING
    return "\n\n".join(f"{machine}:\n\n{text}" for machine, text in found)


def tables(runs: Sequence[Run]) -> str:
    """Every table for which there are rows."""
    return "\n\n".join(text for name in REGIONS if (text := region(name, runs)) != NOTHING)


def machines(runs: Sequence[Run]) -> str:
    """What was measured where, and that no GPU was where none was."""
    lines = []
    for run in runs:
        known = run.run
        lines.append(
            f"- {run.module}: {in_words(known)}; {known['time'][:10]}, commit "
            f"`{known['commit'][:12]}`{' (with changes)' if known['changed'] else ''}"
        )
    if not any("sm" in run.run["machine"] for run in runs):
        lines.append("- **No GPU has been measured yet.** `make gpu` does it, on any CUDA machine.")
    return "\n".join(lines)


def steps(rows: list[Row]) -> str:
    """A table a case: images a second, ratios to ours with one and with two passes, memory."""
    heading = ["implementation", "ms", "images/s", "time over fused's", "time over joint's", "MiB"]
    parts = []
    for case, group in cases(rows):
        batch = int(str(case["shape"]).removeprefix("batch "))
        title, body = f"**{case['op']}, {case['shape']}, {case['dtype']}**", []
        shares = [r["share_of_roofline"] for r in group if r["own"] and "share_of_roofline" in r]
        beyond = any(map(_is_beyond, group))
        if shares:
            title += (
                f": fused takes {1 / shares[0]:.2f} times what its convolutions, as defined, need "
                f"at the rates measured in the run{' †' * beyond}"
            )
        for row in group:
            name = f"**{row['implementation']}**" if row["own"] else row["implementation"]
            if "left_out" in row:
                body.append([row["implementation"], row["left_out"], "", "", "", ""])
                continue
            middle = row["seconds"]["p50"]
            over = [_interval(row["ratio"].get(own)) for own in ("fused", "fused, joint")]
            peak = f"{row['peak_bytes'] / 2**20:.0f}"
            body.append([name, f"{middle * 1e3:.0f}", f"{batch / middle:.0f}", *over, peak])
        parts.append(f"{title}\n\n{table(heading, body)}" + f"\n\n{BEYOND}" * beyond)
    return "\n\n".join(parts)


def of_cases(rows: list[Row], memory: bool = False) -> str:
    """A line a case: our time, and the time of each peer over it."""
    timed = [row for row in rows if row["kind"] == "case" and "seconds" in row]
    peers = list(dict.fromkeys(row["implementation"] for row in timed if not row["own"]))
    heading = ["op", "shape", "what", "ours, ms", "of the roofline", *peers]
    heading += ["saved MiB, ours / eager"] * memory
    body: list[list[str]] = []
    beyond = False
    ratios: dict[str, list[float]] = {peer: [] for peer in peers}
    for case, group in cases(timed):
        by_name = {row["implementation"]: row for row in group}
        own = next((row for row in group if row["own"]), None)
        if own is None:
            continue
        share, beyond = _share(own), beyond or _is_beyond(own)
        line = [case["op"], case["shape"], f"{case['part']}, {case['dtype']}, {case['layout']}"]
        line += [f"{own['seconds']['p50'] * 1e3:.2f}", share]
        for peer in peers:
            ratio = by_name[peer]["ratio"][own["implementation"]] if peer in by_name else None
            line.append(_interval(ratio))
            ratios[peer] += [ratio[0]] if ratio else []
        if memory:
            saved = [row["saved_bytes"] / 2**20 for row in (own, by_name["eager"])]
            line.append(" / ".join(f"{s:.1f}" for s in saved))
        body.append(line)
    means = [f"**{geometric_mean(values):.2f}**" if values else "" for values in ratios.values()]
    body.append(["geometric mean", "", "", "", "", *means, *[""] * memory])
    text = table(heading, body)
    text += f"\n\n{BEYOND}" * beyond
    left_out = dict.fromkeys(
        f"- {row['implementation']}: {row['left_out']}" for row in rows if "left_out" in row
    )
    return text + "\n\nLeft out:\n\n" + "\n".join(left_out) if left_out else text


def gathering(rows: list[Row]) -> str:
    body = []
    for row in rows:
        middle = row["seconds"]["p50"]
        speed = [f"{middle * 1e6:.0f}", f"{row['bytes'] / middle / 1e9:.1f}"]
        body.append(
            [f"{row['device']}, {row['batch']}", *speed, *map(_interval, row["ratio"].values())]
        )
    return table(["batch", "ours, µs", "GB/s", *rows[0]["ratio"]], body)


def whole(rows: list[Row]) -> str:
    """The engine's cost and the program's."""
    body = []
    for row in rows:
        if row["kind"] == "engine":
            value, low, high = (100 * (x - 1) for x in row["over_bare"])
            step = f"{row['bare']['p50'] * 1e3:.2f} ms"
            what = f"over the bare loop's step: {row['run']}"
            body.append([what, f"{value:+.1f} % [{low:+.1f}, {high:+.1f}] of {step}"])
        elif row["kind"] == "first step":
            body.append(["from command to first step", f"{row['seconds']:.2f} s"])
        else:
            body.append([row["what"], f"{row['value']:.3g} {row['unit']}"])
    return table(["", ""], body)


def quality(rows: list[Row]) -> str:
    """Each arm: its last point, and the mean of its metric over the seconds; of several seeds the
    mean, the least and the greatest."""
    curves: dict[str, dict[int, list[Row]]] = {}
    for row in rows:
        curves.setdefault(row["arm"], {}).setdefault(row["seed"], []).append(row)
    metric = rows[0]["metric"]
    means = {a: [_over_seconds(c, metric) for c in of.values()] for a, of in curves.items()}
    base = "tutorial" if "tutorial" in means else next(iter(means))
    heading = ["arm", "seeds", "seconds", "steps", "images/s", *rows[0]["metrics"]]
    heading += [f"{metric} over the seconds", f"of {base}'s"]
    body = []
    for arm, of in curves.items():
        last = [points[-1] for points in of.values()]
        speed = mean(row["steps"] * row["batch"] / row["seconds"] for row in last)
        line = [arm, str(len(of)), f"{last[0]['seconds']:.0f}"]
        line += [f"{mean(row['steps'] for row in last):.0f}", f"{speed:.0f}"]
        line += [_band([row["metrics"][name] for row in last]) for name in last[0]["metrics"]]
        body.append([*line, _band(means[arm]), f"{mean(means[arm]) / mean(means[base]):.2f}"])
    return table(heading, body)


def _over_seconds(points: list[Row], metric: str) -> float:
    """The area under a curve over its seconds, straight between its points."""
    ends = [(point["seconds"], point["metrics"][metric]) for point in points]
    area = sum((b - a) * (x + y) / 2 for (a, x), (b, y) in pairwise(ends))
    return area / (ends[-1][0] - ends[0][0]) if len(ends) > 1 else ends[0][1]


def _band(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.4g}"
    return f"{mean(values):.4g} ({min(values):.4g}–{max(values):.4g})"


# What stands between two marks: a text of the rows of modules.
REGIONS: dict[str, tuple[tuple[str, ...], Callable[[list[Row]], str]]] = {
    "steps": (("dcgan_step",), steps),
    "layers": (("norm_act",), partial(of_cases, memory=True)),
    "convolutions": (("small_channel_conv",), of_cases),
    "networks": (("fuse",), partial(of_cases, memory=True)),
    "gathering": (("gather_images",), gathering),
    "whole": (("engine", "program"), whole),
    "quality": (("quality",), quality),
}


def cases(rows: Sequence[Row]) -> Iterator[tuple[Row, list[Row]]]:
    """Each case with all its rows."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row["kind"] == "case":
            groups.setdefault(tuple(row["case"].values()), []).append(row)
    for group in groups.values():
        yield group[0]["case"], group


def table(heading: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _share(row: Row) -> str:
    """Of the roofline, marked where it passes 1."""
    if "share_of_roofline" not in row:
        return ""
    return f"{row['share_of_roofline']:.0%}{' †' * _is_beyond(row)}"


def _is_beyond(row: Row) -> bool:
    """Whether an implementation of ours passes the roofline, as a table shows it."""
    return bool(row["own"]) and round(row.get("share_of_roofline", 0.0), 2) > 1


def _interval(ratio: Sequence[float] | None) -> str:
    return "" if ratio is None else "{:.2f} ({:.2f}–{:.2f})".format(*ratio)


def main() -> int:
    try:
        page = made(PAGE.read_text(encoding="utf-8"), committed())
    except ValueError as error:
        print(f"bench-docs: error: {error}", file=sys.stderr)
        return 2
    PAGE.write_text(page, encoding="utf-8")
    print(PAGE.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
