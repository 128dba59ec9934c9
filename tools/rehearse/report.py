"""The launches of a step as a table, by kernel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from .record import Launch


def counted(launches: Iterable[Launch], captured: bool) -> Counter[tuple[str, str]]:
    """Nodes by (kind, kernel), of a graph or of what is launched outside of it."""
    found: Counter[tuple[str, str]] = Counter()
    for launch in launches:
        if launch.captured == captured:
            found[launch.kind, launch.name] += launch.nodes
    return found


def table(launches: Iterable[Launch], captured: bool) -> str:
    """A line for each kernel, the most frequent first, and the total."""
    found = counted(launches, captured)
    lines = [f"{n:6d}  {kind:6s}  {name}" for (kind, name), n in found.most_common()]
    return "\n".join([*lines, f"{found.total():6d}  in all"])


def places(launches: Iterable[Launch], name: str) -> str:
    """Where a kernel is launched from, by line."""
    found: Counter[str] = Counter()
    for launch in launches:
        if launch.name == name:
            found[launch.where or "autograd"] += launch.nodes
    return ", ".join(f"{where} ({n})" for where, n in found.most_common())
