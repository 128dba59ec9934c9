"""Rows of the report, the committed file, and what differs between two reports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

# Bytes of shared memory a block may have.
SHARED = {"sm_80": 166912, "sm_90": 232448, "sm_100": 232448, "sm_120": 101376, "gfx942": 65536}


@dataclass(frozen=True, order=True)
class Row:
    """One kernel, compiled for one target. ``load`` and ``store`` are the widest access to global
    memory in bytes a thread; ``spills`` counts spilled registers (AMD) or bytes of stack (NVIDIA).
    ``matrix`` counts tensor-core instructions, where the kernel is meant to have any. Of a step of
    a loop that `loop.py` reads: a warp's instructions, and a block's cycles to issue and multiply.
    ``entry`` counts the instructions before the first load of global memory, of CUDA C++.
    """

    kernel: str
    variant: str
    target: str
    registers: int
    spills: int
    shared: int
    load: int
    store: int
    matrix: int | None = None
    instructions: int | None = None
    issue_cycles: int | None = None
    matrix_cycles: int | None = None
    entry: int | None = None

    @property
    def issue_ratio(self) -> float | None:
        """Cycles to issue a step of the loop, to those in which it multiplies."""
        if self.issue_cycles is None or not self.matrix_cycles:
            return None
        return self.issue_cycles / self.matrix_cycles

    @property
    def key(self) -> tuple[str, str, str]:
        return self.kernel, self.variant, self.target


@dataclass(frozen=True)
class Section:
    """What one part compiled, the toolchain (name and version) it did so with, and digests of what
    it compiled them from, by kernel or target (see `digests.py`).
    """

    toolchain: str
    rows: tuple[Row, ...]
    digests: dict[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Select:
    """Which rows to compile: ``kernel variant`` matching a pattern, and some of the targets."""

    pattern: str = ""
    targets: tuple[str, ...] = ()

    def wants(self, kernel: str, variant: str, target: str) -> bool:
        named = re.search(self.pattern, f"{kernel} {variant}") is not None
        return named and (not self.targets or target in self.targets)


def dump(sections: dict[str, Section]) -> str:
    """JSON with one row a line, so that a diff shows the kernels that changed."""
    parts = []
    for name in sorted(sections):
        section = sections[name]
        rows = ",\n".join(
            "   " + json.dumps({k: v for k, v in asdict(row).items() if v is not None})
            for row in sorted(section.rows, key=lambda row: row.key)
        )
        toolchain = json.dumps(section.toolchain)
        parts.append(
            f' {json.dumps(name)}: {{\n  "toolchain": {toolchain},\n  "rows": [\n{rows}\n  ]\n }}'
        )
    return "{\n" + ",\n".join(parts) + "\n}\n"


def write(path: Path, sections: dict[str, Section], page: str | None = None) -> None:
    """Report, page (`markdown`, unless given), and the digests in a file of their own, whose diff
    says nothing to a reader.
    """
    digests = {
        name: {label: " ".join(sorted(some)) for label, some in sorted(section.digests.items())}
        for name, section in sorted(sections.items())
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump(sections))
    path.with_suffix(".md").write_text(page or markdown(sections))
    path.with_suffix(".digests.json").write_text(json.dumps(digests, indent=1) + "\n")


def load(path: Path) -> dict[str, Section]:
    """The committed report; empty where there is none yet. ValueError for a malformed one."""
    if not path.exists():
        return {}
    known = path.with_suffix(".digests.json")
    try:
        data = json.loads(path.read_text())
        digests = json.loads(known.read_text()) if known.exists() else {}
        return {
            name: Section(
                part["toolchain"],
                tuple(Row(**row) for row in part["rows"]),
                {k: frozenset(some.split()) for k, some in digests.get(name, {}).items()},
            )
            for name, part in data.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a kernel report: {error}") from error


def spilled(rows: Iterable[Row]) -> list[str]:
    return [f"{' '.join(row.key)}: spills {row.spills}" for row in rows if row.spills]


def unfit(rows: Iterable[Row]) -> list[str]:
    """One line for each row that spills, that lacks the tensor-core instructions it is meant to
    have, whose loop keeps the matrix unit waiting, or that needs more shared memory than its target
    has.
    """
    rows = tuple(rows)
    lines = spilled(rows)
    lines += [
        f"{' '.join(row.key)}: no tensor-core instructions" for row in rows if row.matrix == 0
    ]
    lines += [
        f"{' '.join(row.key)}: a step issues for {row.issue_cycles} cycles and multiplies for "
        f"{row.matrix_cycles}"
        for row in rows
        if (row.issue_ratio or 0) > 1
    ]
    for row in rows:
        limit = SHARED.get(row.target)
        if limit is not None and row.shared > limit:
            lines.append(f"{' '.join(row.key)}: {row.shared} bytes of shared memory of {limit}")
    return lines


def differences(committed: Section, fresh: Section, select: Select) -> list[str]:
    """One line for each row that is missing, new or changed among the selected ones."""
    old = {row.key: row for row in committed.rows if select.wants(*row.key)}
    new = {row.key: row for row in fresh.rows}
    lines = [f"{' '.join(key)}: no longer compiled" for key in sorted(old.keys() - new.keys())]
    lines += [f"{' '.join(key)}: not in the report" for key in sorted(new.keys() - old.keys())]
    for key in sorted(old.keys() & new.keys()):
        changed = [
            f"{field.name} {getattr(old[key], field.name)} -> {getattr(new[key], field.name)}"
            for field in fields(Row)
            if getattr(old[key], field.name) != getattr(new[key], field.name)
        ]
        if changed:
            lines.append(f"{' '.join(key)}: {', '.join(changed)}")
    return lines


def merged(committed: Section | None, fresh: Section, select: Select) -> Section:
    """The committed section with the selected rows made anew; ValueError where the compiler is
    another, for a section is of one.
    """
    if committed is None or select == Select():
        return fresh
    if committed.toolchain != fresh.toolchain:
        raise ValueError(f"the report is of {committed.toolchain}, this is {fresh.toolchain}")
    kept = tuple(row for row in committed.rows if not select.wants(*row.key))
    rows = tuple(sorted(kept + fresh.rows, key=lambda row: row.key))
    # One that stands for a row no longer there stands for nothing else, either.
    digests = {
        label: committed.digests.get(label, frozenset()) | fresh.digests.get(label, frozenset())
        for label in committed.digests | fresh.digests
    }
    return Section(fresh.toolchain, rows, digests)


def markdown(sections: dict[str, Section]) -> str:
    """A table a reader can take in: one line a kernel and target over all its variants."""
    lines = [
        "# Compiled kernels",
        "",
        "Written by `make kernel-report`; every variant stands in `kernels.json`. Registers a",
        "thread, shared memory a block and the widest global load and store in bytes a thread: the",
        "smallest and largest over the variants of a kernel (narrow ones are the odd shapes);",
        "instructions before the first load of global memory, in CUDA C++; and tensor-core",
        "instructions, in kernels that are matrix products.",
    ]
    for name in sorted(sections):
        section = sections[name]
        lines += [
            "",
            f"## {name}: {section.toolchain}",
            "",
            "| kernel | target | variants | registers | spills | shared | load | store | entry "
            "| matrix |",
            "| --- | --- | --: | --: | --: | --: | --: | --: | --: | --: |",
        ]
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in section.rows:
            groups.setdefault((row.kernel, row.target), []).append(row)
        for (kernel, target), rows in sorted(groups.items()):
            cells = [span(row.registers for row in rows), str(sum(row.spills for row in rows))]
            cells += [span(getattr(row, f) for row in rows) for f in ("shared", "load", "store")]
            for figure in ("entry", "matrix"):
                found = [n for row in rows if (n := getattr(row, figure)) is not None]
                cells.append(span(found) if found else "")
            lines.append(f"| {kernel} | {target} | {len(rows)} | " + " | ".join(cells) + " |")
        lines += _loops(section)
    return "\n".join(lines) + "\n"


def _loops(section: Section) -> list[str]:
    """A table of the loops that were read, a line for each configuration."""
    rows = [row for row in section.rows if row.issue_ratio is not None]
    if not rows:
        return []
    lines = [
        "",
        "### Loops of the products by TMA",
        "",
        "A step of the main loop: instructions of a warp, cycles in which a block issues them and",
        "in which its matrix units multiply. Up to a ratio of 1 the matrix unit need not wait.",
        "",
        "| kernel | target | tile | variants | instructions | issue | multiply | ratio |",
        "| --- | --- | --- | --: | --: | --: | --: | --: |",
    ]
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        wanted = ("EPILOGUE", "TRANSPOSED", "FLAT", "BLOCK_", "num_warps", "STAGES")
        tile = " ".join(w for w in row.variant.split() if w.startswith(wanted))
        groups.setdefault((row.kernel, row.target, tile), []).append(row)
    for key, group in sorted(groups.items()):
        figures = ("instructions", "issue_cycles", "matrix_cycles")
        cells = [span(getattr(row, figure) for row in group) for figure in figures]
        cells.append(f"{max(row.issue_ratio or 0 for row in group):.2f}")
        lines.append(f"| {' | '.join(key)} | {len(group)} | " + " | ".join(cells) + " |")
    return lines


def span(values: Iterable[int]) -> str:
    low_high = sorted(set(values))
    return str(low_high[0]) if len(low_high) == 1 else f"{low_high[0]}–{low_high[-1]}"
