"""The table of docs/zoo.md: what `fuse` does to the architectures of the zoo on this CPU.

    python -m bench.zoo_table            # measures, and writes the table into docs/zoo.md
    python -m bench.zoo_table patchgan   # these rows alone
    python -m bench.zoo_table --held-out # the second table: sizes that no choice was made on

Each training pass (forward and backward, float32) runs as it is and fused, in turn within a
process, in both layouts. Where tensors happen to lie moves a process' ratio by several percent, so
several processes are asked: the median of their medians, and the least and the greatest. A model in
which no fused step pays runs its own forward, and is not timed.
"""

from __future__ import annotations

import sys
from statistics import median

import torch

from bench.harness.source import ROOT
from bench.never_slower import HELD_OUT, PROCESSES, SIZES, Row, in_fresh_process
from bench.zoo import ZOO
from fastgan import fuse

BEGIN, END = "<!-- table: python -m bench.zoo_table -->\n", "<!-- end of table -->\n"
BEGIN_HELD_OUT = "<!-- table: python -m bench.zoo_table --held-out -->\n"


def speed(name: str, size: tuple[int, int], layout: str) -> str:
    """original over fused, with its range; empty where the layout does not exist."""
    width, batch = size
    found = []
    for process in range(PROCESSES):
        row = Row(name, width, layout, batch, "float32", "training", process)
        [(_, measured)] = in_fresh_process([row])
        if "why" in measured:
            return ""
        if measured["plain"]:
            return "its own forward"
        found.append(measured["ratio"])
    return f"{median(found):.2f} ({min(found):.2f}–{max(found):.2f})"


def speeds(name: str, size: tuple[int, int]) -> list[str]:
    return [speed(name, size, layout) for layout in ("contiguous", "channels last")]


def row(name: str) -> str:
    torch.manual_seed(0)
    report = fuse(ZOO[name].build(width=ZOO[name].narrow)).fusion_report
    blocks = f"{report.fused} of {len(report)}"
    return line([name, blocks, *speeds(name, SIZES[name])])


def held_out_row(name: str) -> str:
    torch.manual_seed(0)
    return line([name, *map(str, HELD_OUT[name]), *speeds(name, HELD_OUT[name])])


def line(cells: list[str]) -> str:
    text = f"| {' | '.join(cells)} |"
    print(text, flush=True)
    return text


HEADING = [
    "| architecture | blocks fused | speed, contiguous | channels-last |",
    "|---|---|---|---|",
]
HELD_OUT_HEADING = [
    "| architecture | width | batch | speed, contiguous | channels-last |",
    "|---|---|---|---|---|",
]


def main(arguments: list[str]) -> None:
    held_out = "--held-out" in arguments
    names = [name for name in arguments if name != "--held-out"]
    known = HELD_OUT if held_out else ZOO
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"no architecture {', '.join(unknown)}; there are {', '.join(known)}")
    for name in names or known:
        if held_out:
            put(name, held_out_row(name), BEGIN_HELD_OUT, HELD_OUT_HEADING)
        else:
            put(name, row(name), BEGIN, HEADING)


def put(name: str, text: str, begin: str, heading: list[str]) -> None:
    """Puts a row into a table of the page, in the order of the zoo."""
    path = ROOT / "docs" / "zoo.md"
    before, _, rest = path.read_text(encoding="utf-8").partition(begin)
    table, _, after = rest.partition(END)
    rows = {known.split("|")[1].strip(): known for known in table.strip().splitlines()[2:]}
    rows[name] = text
    lines = [*heading, *(rows[known] for known in ZOO if known in rows)]
    path.write_text(f"{before}{begin}\n" + "\n".join(lines) + f"\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
