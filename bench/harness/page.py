"""The tables of docs/benchmarks.md, made of bench/results/: `python -m bench.harness.page`.

The page's own words stand in it; what lies between two marks is written by this. Each folder of
bench/results/ but `local` is one machine.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import geometric_mean
from typing import NamedTuple

from bench.harness import results
from bench.harness.machine import ROOT, in_words, named
from bench.harness.results import Row

PAGE = ROOT / "docs" / "benchmarks.md"
NOTHING = "Not measured yet."


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
    slowed = sum(any(s.get("throttled") for s in r.get("gpu", ())) for x in runs for r in x.rows)
    if slowed:
        lines.append(f"- In {slowed} results the GPU was slowed down by power or heat.")
    return "\n".join(lines)


def steps(rows: list[Row]) -> str:
    """A table a case: images a second, ratios to ours with one and with two passes, memory."""
    heading = ["implementation", "ms", "images/s", "time over fused's", "time over joint's", "MiB"]
    parts = []
    for case, group in cases(rows):
        batch = int(str(case["shape"]).removeprefix("batch "))
        body = []
        for row in group:
            if "seconds" not in row:
                body.append([row["implementation"], row["left_out"], "", "", "", ""])
                continue
            middle, given = row["seconds"]["p50"], row["ratio"]
            over = [_interval(given.get(own)) for own in ("fused", "fused, joint")]
            name = f"**{row['implementation']}**" if row["own"] else row["implementation"]
            peak = f"{row['peak_bytes'] / 2**20:.0f}"
            body.append([name, f"{middle * 1e3:.0f}", f"{batch / middle:.0f}", *over, peak])
        share = next((r["share_of_roofline"] for r in group if r["own"] and "seconds" in r), None)
        title = f"**{case['op']}, {case['shape']}, {case['dtype']}**"
        if share is not None:
            title += (
                f": fused takes {1 / share:.2f} times what its convolutions, as defined, need at "
                "the rates measured in the run"
            )
        parts.append(f"{title}\n\n{table(heading, body)}")
    return "\n\n".join(parts)


def of_cases(rows: list[Row], memory: bool = False) -> str:
    """A line a case: our time, and the time of each peer over it."""
    timed = [row for row in rows if row["kind"] == "case" and "seconds" in row]
    peers = list(dict.fromkeys(row["implementation"] for row in timed if not row["own"]))
    heading = ["op", "shape", "what", "ours, ms", "of the roofline", *peers]
    body: list[list[str]] = []
    means: dict[str, list[float]] = {peer: [] for peer in peers}
    for case, group in cases(timed):
        own = next((row for row in group if row["own"]), None)
        if own is None:
            continue
        line = [case["op"], case["shape"], f"{case['part']}, {case['dtype']}, {case['layout']}"]
        line.append(f"{own['seconds']['p50'] * 1e3:.2f}")
        line.append(f"{own['share_of_roofline']:.0%}" if "share_of_roofline" in own else "")
        by_name = {row["implementation"]: row for row in group}
        for peer in peers:
            ratio = by_name[peer]["ratio"][own["implementation"]] if peer in by_name else None
            line.append(_interval(ratio))
            if ratio is not None:
                means[peer].append(ratio[0])
        if memory:
            saved = [by_name[n]["saved_bytes"] / 2**20 for n in (own["implementation"], "eager")]
            line.append(" / ".join(f"{s:.1f}" for s in saved))
        body.append(line)
    last = ["geometric mean", "", "", "", ""]
    last += [f"**{geometric_mean(values):.2f}**" if values else "" for values in means.values()]
    if memory:
        heading.append("saved MiB, ours / eager")
        last.append("")
    left_out = {f"- {r['implementation']}: {r['left_out']}": 0 for r in rows if "left_out" in r}
    found = [table(heading, [*body, last])]
    if left_out:
        found.append("Left out:\n\n" + "\n".join(left_out))
    return "\n\n".join(found)


def gathering(rows: list[Row]) -> str:
    body = []
    for row in rows:
        middle = row["seconds"]["p50"]
        speed = [f"{middle * 1e6:.0f}", f"{row['bytes'] / middle / 1e9:.1f}"]
        ratios = [_interval(ratio) for ratio in row["ratio"].values()]
        body.append([f"{row['device']}, {row['batch']}", *speed, *ratios])
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
    """The last point of each arm."""
    heading = ["arm", "seed", "seconds", "steps", "images/s", *rows[0]["metrics"]]
    last = {(row["arm"], row["seed"]): row for row in rows}
    body = []
    for (arm, seed), row in last.items():
        speed = row["steps"] * row["batch"] / row["seconds"]
        line = [arm, str(seed), f"{row['seconds']:.0f}", str(row["steps"]), f"{speed:.0f}"]
        body.append([*line, *(f"{value:.4g}" for value in row["metrics"].values())])
    return table(heading, body)


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


def _interval(ratio: Sequence[float] | None) -> str:
    if ratio is None:
        return ""
    value, low, high = ratio
    return f"{value:.2f} ({low:.2f}–{high:.2f})"


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
