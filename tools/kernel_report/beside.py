"""What two compilers make of the same kernels, as a page."""

from __future__ import annotations

from .compare import Row, Section, span


def page(own: Section, other: Section) -> str:
    """A line for each kernel and target of the first."""
    lines = [
        f"# {own.toolchain} beside {other.toolchain}",
        "",
        "Written by `make oldest-report`; every variant stands in the JSON files. Registers",
        "a thread over the variants of a kernel, spilled bytes of all, and the largest ratio of",
        "issue to multiplication in a main loop, which is to stay below 1; the oldest comes first.",
        "",
        "| kernel | target | variants | registers | spills | ratio |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for key in sorted({(row.kernel, row.target) for row in own.rows}):
        sides = [
            [row for row in side.rows if (row.kernel, row.target) == key] for side in (own, other)
        ]
        cells = [
            [str(len(rows)) for rows in sides],
            [span(row.registers for row in rows) for rows in sides if rows],
            [str(sum(row.spills for row in rows)) for rows in sides],
            list(filter(None, map(_ratio, sides))),
        ]
        lines.append(f"| {' | '.join(key)} | " + " | ".join(map(" · ".join, cells)) + " |")
    return "\n".join(lines) + "\n"


def _ratio(rows: list[Row]) -> str:
    found = [row.issue_ratio for row in rows if row.issue_ratio is not None]
    return f"{max(found):.2f}" if found else ""
