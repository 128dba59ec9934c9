"""The tables and pictures of docs/benchmarks.md, made of bench/results/: `make bench-docs`.

    python -m bench.harness.page [--without-plots]

The page's own words stand in it; what lies between two marks is written by this. Each folder of
bench/results/ but `local` is one machine.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.harness import plots, results
from bench.harness.machine import ROOT, in_words, named
from bench.harness.results import Row
from bench.paired import geometric_mean

PAGE = ROOT / "docs" / "benchmarks.md"
PICTURES = ROOT / "docs" / "pictures"
_REGION = re.compile(r"(<!-- made: (\w+) -->\n).*?(<!-- end -->\n)", re.DOTALL)


class Run(NamedTuple):
    """One file of results."""

    folder: str
    module: str
    run: Row
    rows: list[Row]


def committed(folder: Path = results.FOLDER) -> list[Run]:
    """Every run of bench/results/, machine by machine."""
    found = []
    for path in sorted(folder.glob("*/*.jsonl")):
        if path.parent.name != "local":
            found.append(Run(path.parent.name, path.stem, *results.read(path)))
    return found


def made(page: str, runs: Sequence[Run]) -> str:
    """The page with every region made anew. ValueError for a region that is not known."""

    def fill(match: re.Match[str]) -> str:
        name = match[2]
        if name not in REGIONS:
            raise ValueError(f"{PAGE.name}: unknown region {name!r}: {', '.join(REGIONS)}")
        return f"{match[1]}\n{_region(name, runs)}\n\n{match[3]}"

    return _REGION.sub(fill, page)


def _region(name: str, runs: Sequence[Run]) -> str:
    """What a region holds: tables of its own for each machine where there are several."""
    make = REGIONS[name]
    if make is machines:
        return make(runs)
    nothing = make([])
    by_folder = [[r for r in runs if r.folder == folder] for folder in {r.folder: 0 for r in runs}]
    found = [(of, text) for of in by_folder if (text := make(of)) != nothing]
    if len(found) < 2:
        return found[0][1] if found else nothing
    return "\n\n".join(f"{named(of[0].run['machine'])}:\n\n{text}" for of, text in found)


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


def steps(runs: Sequence[Run]) -> str:
    heading = ["implementation", "ms", "images/s", "time over fused's", "time over joint's", "MiB"]
    parts = []
    for case, rows in _cases(runs, "dcgan_step"):
        batch = int(str(case["shape"]).removeprefix("batch "))
        body = []
        for row in rows:
            if "seconds" not in row:
                body.append([row["implementation"], row["left_out"], "", "", "", ""])
                continue
            middle, given = row["seconds"]["p50"], row["ratio"]
            over = [_interval(given.get(own)) for own in ("fused", "fused, joint")]
            name = f"**{row['implementation']}**" if row["own"] else row["implementation"]
            peak = f"{row['peak_bytes'] / 2**20:.0f}"
            body.append([name, f"{middle * 1e3:.0f}", f"{batch / middle:.0f}", *over, peak])
        share = next((r["share_of_roofline"] for r in rows if r["own"] and "seconds" in r), None)
        title = f"{case['op']}, {case['shape']}, {case['dtype']}"
        reached = ""
        if share is not None:
            reached = (
                f": fused takes {1 / share:.2f} times what its convolutions, as defined, need "
            )
            reached += "at the rates measured in the run"
        parts.append(f"**{title}**{reached}\n\n{_table(heading, body)}")
    return "\n\n".join([*parts, *_pictures(runs, "dcgan_step", "ratios", "waterfall")])


def layers(runs: Sequence[Run]) -> str:
    return _of_cases(runs, "norm_act", "saved MiB, ours / eager")


def convolutions(runs: Sequence[Run]) -> str:
    return _of_cases(runs, "thin_conv", None)


def networks(runs: Sequence[Run]) -> str:
    return _of_cases(runs, "fuse", "saved MiB, ours / eager")


def gathering(runs: Sequence[Run]) -> str:
    rows = [row for run in runs if run.module == "gather_images" for row in run.rows]
    body = []
    for row in rows:
        middle = row["seconds"]["p50"]
        speed = [f"{middle * 1e6:.0f}", f"{row['bytes'] / middle / 1e9:.1f}"]
        ratios = [_interval(ratio) for ratio in row["ratio"].values()]
        body.append([f"{row['device']}, {row['batch']}", *speed, *ratios])
    peers = list(rows[0]["ratio"]) if rows else []
    return _table(["batch", "ours, µs", "GB/s", *peers], body)


def whole(runs: Sequence[Run]) -> str:
    """The engine's cost and the program's."""
    engine = [row for run in runs if run.module == "engine" for row in run.rows]
    body = []
    for row in engine:
        if row["kind"] == "engine":
            value, low, high = (100 * (x - 1) for x in row["over_bare"])
            step = f"{row['bare']['p50'] * 1e3:.2f} ms"
            what = f"over the bare loop's step: {row['run']}"
            body.append([what, f"{value:+.1f} % [{low:+.1f}, {high:+.1f}] of {step}"])
        else:
            body.append(["from command to first step", f"{row['seconds']:.2f} s"])
    for row in (row for run in runs if run.module == "program" for row in run.rows):
        body.append([row["what"], f"{row['value']:.3g} {row['unit']}"])
    return _table(["", ""], body)


def quality(runs: Sequence[Run]) -> str:
    """The last point of each arm; the curve is a picture."""
    heading = ["arm", "seed", "seconds", "steps", "images/s"]
    body = []
    rows = [r for run in runs for r in run.rows if r["kind"] == "quality"]
    metrics = list(rows[0]["metrics"]) if rows else []
    for arm in dict.fromkeys((row["arm"], row["seed"]) for row in rows):
        last = [row for row in rows if (row["arm"], row["seed"]) == arm][-1]
        speed = last["steps"] * last["batch"] / last["seconds"]
        values = [f"{last['metrics'][name]:.4g}" for name in metrics]
        body.append([*map(str, arm), f"{last['seconds']:.0f}", str(last["steps"]), f"{speed:.0f}"])
        body[-1] += values
    table = _table([*heading, *metrics], body)
    return "\n\n".join([table, *_pictures(runs, "quality", "quality")])


REGIONS: dict[str, Callable[[Sequence[Run]], str]] = {
    "machines": machines,
    "steps": steps,
    "layers": layers,
    "convolutions": convolutions,
    "networks": networks,
    "gathering": gathering,
    "whole": whole,
    "quality": quality,
}


def _of_cases(runs: Sequence[Run], module: str, memory: str | None) -> str:
    """A line a case: our time, and the time of each peer over it."""
    cases = list(_cases(runs, module))
    if not cases:
        return "Not measured yet."
    timed = [row for _, rows in cases for row in rows if "seconds" in row]
    peers = list(dict.fromkeys(row["implementation"] for row in timed if not row["own"]))
    heading = ["op", "shape", "what", "ours, ms", "of the roofline", *peers]
    body: list[list[str]] = []
    means: dict[str, list[float]] = {peer: [] for peer in peers}
    for case, rows in cases:
        own = next((row for row in rows if row["own"] and "seconds" in row), None)
        if own is None:
            continue
        line = [case["op"], case["shape"], f"{case['part']}, {case['dtype']}, {case['layout']}"]
        line.append(f"{own['seconds']['p50'] * 1e3:.2f}")
        line.append(f"{own['share_of_roofline']:.0%}" if "share_of_roofline" in own else "")
        by_name = {row["implementation"]: row for row in rows if "seconds" in row}
        for peer in peers:
            ratio = by_name[peer]["ratio"][own["implementation"]] if peer in by_name else None
            line.append(_interval(ratio))
            if ratio is not None:
                means[peer].append(ratio[0])
        if memory is not None:
            saved = [by_name[n]["saved_bytes"] / 2**20 for n in (own["implementation"], "eager")]
            line.append(" / ".join(f"{s:.1f}" for s in saved))
        body.append(line)
    last = ["geometric mean", "", "", "", ""]
    last += [f"**{geometric_mean(means[peer]):.2f}**" for peer in peers]
    if memory is not None:
        heading.append(memory)
        last.append("")
    table = _table(heading, [*body, last])
    left_out = _left_out(rows for _, rows in cases)
    return "\n\n".join([table, *left_out, *_pictures(runs, module, "ratios", "roofline")])


def _left_out(cases: Iterator[list[Row]]) -> list[str]:
    reasons = dict.fromkeys(
        f"{row['implementation']}: {row['left_out']}"
        for rows in cases
        for row in rows
        if "left_out" in row
    )
    return ["Left out:\n\n" + "\n".join(f"- {reason}" for reason in reasons)] if reasons else []


def _cases(runs: Sequence[Run], module: str) -> Iterator[tuple[Row, list[Row]]]:
    """Each case of a module with all its rows."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for run in runs:
        for row in run.rows if run.module == module else ():
            if row["kind"] == "case":
                groups.setdefault((run.folder, *results.key(row)[:-1]), []).append(row)
    for rows in groups.values():
        yield rows[0]["case"], rows


def _pictures(runs: Sequence[Run], module: str, *names: str) -> list[str]:
    """Links to the pictures that these runs give."""
    found = []
    for run in (run for run in runs if run.module == module):
        for name in names:
            if name == "waterfall" and not any(r["kind"] == "breakdown" for r in run.rows):
                continue
            found.append(f"![{module}, {name}](pictures/{_stem(run)}-{name}.svg)")
    return found


def _stem(run: Run) -> str:
    return f"bench-{run.folder}-{run.module}"


def _interval(ratio: Sequence[float] | None) -> str:
    if ratio is None:
        return ""
    value, low, high = ratio
    return f"{value:.2f} ({low:.2f}–{high:.2f})"


def _table(heading: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    if not body:
        return "Not measured yet."
    lines = [heading, ["---"] * len(heading), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--without-plots", action="store_true", help="tables alone")
    chosen = parser.parse_args()
    runs = committed()
    try:
        page = made(PAGE.read_text(encoding="utf-8"), runs)
        PAGE.write_text(page, encoding="utf-8")
        for run in () if chosen.without_plots else runs:
            for path in plots.draw_all(run.rows, PICTURES, _stem(run)):
                if path.name in page:
                    print(path.relative_to(ROOT))
                else:
                    path.unlink()
    except (ValueError, ModuleNotFoundError) as error:
        print(f"bench-docs: error: {error}", file=sys.stderr)
        return 2
    print(PAGE.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
