"""Which files of tests need a GPU, and which packages each of them needs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from .stage import ROOT, Stage, missing

# Marked, or run on the devices of a helper's list or of the fixture.
MARK = re.compile(
    r"pytest\.mark\.gpu|\b(?:on_devices|DEVICES)\b|from devices import|"
    r"def test_\w+\([^)]*\bdevice\b"
)
# What may be missing where torch, triton and numpy are: by module, as pip knows it.
OPTIONAL = {
    "PIL": "pillow",
    "hypothesis": "hypothesis",
    "rich": "rich",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "tyro": "tyro",
}
HERE = "tests/test_gpu_stages.py"  # names the marks, and needs no GPU


def tests(stage: Stage) -> list[str]:
    """The files of tests that need a GPU; those that cannot be imported here are named instead."""
    absent = set(missing(OPTIONAL))
    chosen = []
    for name in marked("tests"):
        if lacking := sorted(absent & needs(ROOT / name)):
            stage.say(f"left out, for want of {', '.join(lacking)}: {name}")
        elif name != HERE:
            chosen.append(name)
    return chosen


def marked(folder: str) -> list[str]:
    """The files under a folder with something marked `gpu`."""
    files = sorted((ROOT / folder).rglob("test_*.py"))
    return [str(p.relative_to(ROOT)) for p in files if MARK.search(p.read_text(encoding="utf-8"))]


def needs(test: Path) -> set[str]:
    """The packages of OPTIONAL without which a file of tests cannot be imported."""
    folders = [p for p in test.parents if ROOT in (p, *p.parents)]
    waiting = [test, *(p / "conftest.py" for p in folders if (p / "conftest.py").exists())]
    seen, found = set(waiting), set()
    while waiting:
        for name in _imported(waiting.pop()):
            found |= {OPTIONAL[top] for top in [name.partition(".")[0]] if top in OPTIONAL}
            new = set(_files(name, ROOT)) - seen
            seen |= new
            waiting += new
    return found


@cache
def _imported(path: Path) -> tuple[str, ...]:
    return tuple(_read_imports(path))


def _read_imports(path: Path) -> Iterator[str]:
    """The dotted names that are imported with a file; not what its functions import when called."""
    here = path.parent.relative_to(ROOT).parts
    nodes: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: len(here) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif not _run_later(node):
            nodes += ast.iter_child_nodes(node)


def _run_later(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return ast.unparse(node.test).endswith("TYPE_CHECKING")
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))


@cache
def _files(name: str, tree: Path) -> tuple[Path, ...]:
    """The files of a tree that importing a dotted name runs, its packages' included."""
    parts = name.split(".")
    found = (
        root.joinpath(*parts[:end])
        for root in (tree, tree / "tests" / "helpers")
        for end in range(1, len(parts) + 1)
    )
    files = (p for path in found for p in (path.with_suffix(".py"), path / "__init__.py"))
    return tuple(p for p in files if p.exists())
