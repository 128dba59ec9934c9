"""The tables of docs/zoo.md, of what `bench.never_slower` has measured.

    python -m bench.zoo_page                          # from bench/results/
    python -m bench.zoo_page build/never_slower.jsonl  # keeps its medians there first

Run it where and as the file was measured: machine and threads are written beside the medians.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from statistics import geometric_mean

from bench import never_slower as measured
from bench.harness import machine, page, results
from bench.harness.page import Run
from bench.harness.source import ROOT
from bench.never_slower import BATCHES, DTYPES, HELD_OUT, LAYOUTS, MIN_RATIO, Row, Summary
from bench.zoo import ZOO

PAGE = ROOT / "docs" / "zoo.md"
SHOWN = "training", "inference"
OF_MACHINE = "zoo"  # the name of its file


def keep(files: list[Path]) -> None:
    """Writes the medians of a machine's rows into bench/results/."""
    found = {row: entry for file in files for row, entry in measured.known(file).items()}
    of = measured.summaries(found)
    order = sorted(of, key=lambda row: (list(ZOO).index(row.model), row))
    rows = [{"kind": "zoo", **row._asdict(), **of[row]._asdict()} for row in order]
    run = {**machine.describe(), "quick": False, "ceilings": {}}
    results.write(results.FOLDER / machine.slug() / f"{OF_MACHINE}.jsonl", run, rows)


def summaries_of(run: Run) -> dict[Row, Summary]:
    return {
        Row(**{name: row[name] for name in Row._fields}): Summary(
            **{name: row[name] for name in Summary._fields}
        )
        for row in run.rows
    }


def text(run: Run) -> str:
    """A machine's tables, one a dtype, and what all its rows say together."""
    of = summaries_of(run)
    least, most = (f(summary.processes for summary in of.values()) for f in (min, max))
    processes = str(least) if least == most else f"{least} to {most}"
    commit = run.run["commit"][:12] + " (with changes)" * run.run["changed"]
    parts = [
        f"{machine.in_words(run.run)}; {processes} processes a row, commit {commit}.",
        measured.in_all(of),
    ]
    for dtype in DTYPES:
        if rows := {row: summary for row, summary in of.items() if row.dtype == dtype}:
            parts.append(f"**{dtype}**" + (" by autocast" if dtype != DTYPES[0] else ""))
            parts.append("\n".join(lines(rows)))
    below = [
        f"- {', '.join(map(str, row[:-1]))}: {summary}, "
        f"{summary.original:.2f} and {summary.ours:.2f} ms"
        for row, summary in sorted(of.items(), key=lambda item: item[1].ratio)
        if summary.ratio < MIN_RATIO
    ]
    if below:
        parts.append(f"Rows below {MIN_RATIO}:")
        parts.append("\n".join(below))
    return "\n\n".join(parts)


def lines(of: dict[Row, Summary]) -> Iterator[str]:
    """A row for each model, contiguous first; geometric means at the end."""
    batches = [batch for batch in BATCHES if any(row.batch == batch for row in of)]
    columns = [(part, layout, batch) for part in SHOWN for layout in LAYOUTS for batch in batches]
    heads = [f"{part}, {layout}, {batch}" for part, layout, batch in columns]
    yield f"| architecture | width | {' | '.join(heads)} |"
    yield "|---|---|" + "---|" * len(columns)
    by_column = {(row.part, row.layout, row.batch, *row[:2]): s.ratio for row, s in of.items()}
    for model, width in dict.fromkeys(row[:2] for row in of):
        ratios = [by_column.get((*column, model, width)) for column in columns]
        cells = ["" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
        held_out = "*" if HELD_OUT.get(model, (None,))[0] == width else ""
        yield f"| {model}{held_out} | {width} | {' | '.join(cells)} |"
    means = []
    for column in columns:
        means.append(geometric_mean(r for key, r in by_column.items() if key[:3] == column))
    yield f"| geometric mean | | {' | '.join(f'{mean:.2f}' for mean in means)} |"


def made(text_of_page: str, runs: list[Run]) -> str:
    """The page with its tables made anew."""
    tables = [text(run) for run in runs if run.module == OF_MACHINE]
    return page.filled(text_of_page, "made: zoo", "\n\n".join(tables) or page.NOTHING)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="of bench.never_slower")
    if files := parser.parse_args().files:
        keep(files)
    PAGE.write_text(made(PAGE.read_text("utf-8"), page.committed()), "utf-8")


if __name__ == "__main__":
    main()
