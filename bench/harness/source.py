"""Which code a result is of, told without a repository: a copy of the tree has no commit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MEASURED = ("bench", "csrc", "fastgan", "kernels", "setup.py")  # what a time depends on
BUILT = ("csrc", "setup.py")  # what the compiled library depends on
TESTED = ("conftest.py", "csrc", "fastgan", "kernels", "setup.py", "tests")
_SUFFIXES = (".py", ".cpp", ".h", ".cu", ".cuh")
_DATA = ("fastgan/ops/conv/tuning.json",)  # read at run time, and part of what is chosen


def source_hash(names: Iterable[str] = MEASURED, root: Path = ROOT) -> str:
    """Twelve hexadecimal digits of the sources' paths and texts under some of the root's names.

    Results, build products and everything else that is no source leave it as it is.
    """
    digest = hashlib.sha256()
    for path in sorted(_sources(names, root)):
        text = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(text)}\0".encode())
        digest.update(text)
    return digest.hexdigest()[:12]


def _sources(names: Iterable[str], root: Path) -> Iterator[Path]:
    # fastgan/kernels is a link to kernels/, or a copy of it where links did not travel.
    linked = root / "fastgan" / "kernels"
    for name in names:
        top = root / name
        for path in [top] if top.is_file() else top.rglob("*"):
            known = path.suffix in _SUFFIXES or path.relative_to(root).as_posix() in _DATA
            if known and path.is_file() and linked not in path.parents:
                yield path
