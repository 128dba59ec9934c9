"""Results that are to be committed gather case by case in a folder that git ignores; those that are
committed stay as they are until others that lack nothing take their place."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from bench.harness import machine, results
from bench.harness.results import Row

SAME = ("source", "versions", "settings")  # what results may be added to that were begun before


def folder_of(kept: Path) -> Path:
    """Where the results gather that ``kept``, a folder of bench/results/, is to hold."""
    return kept.parent / "local" / kept.name


def begun(path: Path, device: str) -> list[Row]:
    """The rows of this code and machine that stand in a file; none where it is of others."""
    try:
        run, rows = results.read(path)
    except (OSError, ValueError):
        return []
    now = machine.describe(device)
    same = all(run.get(key) == now[key] for key in SAME)
    return rows if same and run["machine"]["name"] == now["machine"]["name"] else []


def take_place(kept: Path, modules: Iterable[str], whole: bool) -> Iterator[str]:
    """Moves into ``kept`` the drafts of modules that hold all that stands there, and says so.

    Args:
        whole: the whole suite was run, so that what a draft lacks is measured no more.
    """
    for name in (f"{module}.jsonl" for module in modules):
        draft, path = folder_of(kept) / name, kept / name
        if not whole and (lacking := _lacking(path, draft)):
            yield f"{path} is left as it is: {draft} lacks {lacking} of its rows"
            continue
        kept.mkdir(parents=True, exist_ok=True)
        os.replace(draft, path)
        yield f"results: {path}"


def _lacking(path: Path, draft: Path) -> int:
    """How many rows of a file are not measured again in its draft."""
    if not path.is_file():
        return 0
    known = [results.identity(row) for row in results.read(draft)[1]]
    return sum(results.identity(row) not in known for row in results.read(path)[1])
