"""Two runs compared: python -m bench.harness.compare A B (files or folders of results).

Times of two runs are not comparable: the machine was another, or in another mood. What is compared
is the ratio of the strongest peer's time to ours, which each run took within its own rounds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

from bench.harness import results
from bench.harness.results import Row
from bench.paired import geometric_mean

Key = tuple[str, ...]


class Change(NamedTuple):
    """Ours over a peer in two runs: (median, low, high) each."""

    key: Key
    peer: str
    before: tuple[float, float, float]
    after: tuple[float, float, float]

    @property
    def value(self) -> float:
        return self.after[0] / self.before[0]

    @property
    def beyond_noise(self) -> bool:
        """The intervals do not meet."""
        return self.after[1] > self.before[2] or self.after[2] < self.before[1]


def changes(before: list[Row], after: list[Row]) -> list[Change]:
    """For each implementation of ours in both runs: against the peer that was strongest before."""
    first, second = _ratios(before), _ratios(after)
    found = []
    for key in first.keys() & second.keys():
        common = first[key].keys() & second[key].keys()
        if common:
            peer = min(common, key=lambda name: first[key][name][0])
            found.append(Change(key, peer, first[key][peer], second[key][peer]))
    return sorted(found)


def _ratios(rows: list[Row]) -> dict[Key, dict[str, tuple[float, float, float]]]:
    """Case and implementation of ours -> peer -> ratio."""
    found: dict[Key, dict[str, tuple[float, float, float]]] = {}
    for row in rows:
        if row.get("kind") != "case" or row["own"]:
            continue
        for own, (value, low, high) in row.get("ratio", {}).items():
            key = (*results.key(row)[:-1], own)
            found.setdefault(key, {})[row["implementation"]] = value, low, high
    return found


def render(found: list[Change]) -> str:
    lines = []
    for change in found:
        op, shape, dtype, layout, part, device, own = change.key
        mark = " " if not change.beyond_noise else "+" if change.value > 1 else "-"
        lines.append(
            f"{mark} {op} {shape} {dtype} {layout} {part} {device}: {own} against {change.peer} "
            f"{change.before[0]:.2f}× → {change.after[0]:.2f}× ({change.value - 1:+.0%})"
        )
    if not found:
        return "the two runs have no case in common"
    mean = geometric_mean(change.value for change in found)
    better = sum(c.beyond_noise and c.value > 1 for c in found)
    worse = sum(c.beyond_noise and c.value < 1 for c in found)
    lines.append(
        f"{len(found)} cases, geometric mean {mean - 1:+.1%}; beyond noise (marked): "
        f"{better} better, {worse} worse"
    )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="fastgan bench --compare")
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    chosen = parser.parse_args()
    try:
        (_, before), (_, after) = results.read(chosen.before), results.read(chosen.after)
    except (OSError, ValueError) as error:
        print(f"fastgan bench: error: {error}", file=sys.stderr)
        return 2
    print(render(changes(before, after)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
