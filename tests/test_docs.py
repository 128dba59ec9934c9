"""The documentation: what it links to and names is there, and what it shows runs as written."""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import fastgan
from fastgan.cli import COMMANDS
from fastgan.cli.completion import words_of
from fastgan.cli.data import Check, Fetch

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Flags of other programs that pages name.
FOREIGN = {"--archs", "--arms", "--check", "--measure"}
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@each_page
def test_links_lead_to_files(page):
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


def test_every_page_stands_in_the_index():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in PAGES[2:]:
        assert page.name == "index.md" or f"({page.relative_to(ROOT / 'docs')})" in index


def test_every_environment_variable_stands_in_the_page_of_the_command_line():
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    files = [
        *(ROOT / "fastgan").rglob("*.py"),
        ROOT / "setup.py",
        ROOT / "csrc/cpu/simd/dispatch.cpp",
    ]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    read = {*re.findall(r'"(FASTGAN_[A-Z_]+)"', text)}
    assert read == {*re.findall(r"`(FASTGAN_[A-Z_]+)`", page)}


@each_page
def test_every_name_of_the_package_is_there(page):
    text = page.read_text(encoding="utf-8")
    names = [
        n for span in _spans(text) for n in re.findall(r"(?<![\w./~-])fastgan[.][\w.{},]+", span)
    ]
    names += [name for block in _blocks(text, "python") for name in _names_of(block)]
    gone = [name for name in names if not all(map(_exists, _each(name.rstrip(".,"))))]
    assert not gone


def test_a_name_that_is_gone_is_found():
    assert not _exists("fastgan.fused")
    assert _names_of("from fastgan.nn import Gone\nfastgan.fuse(x).y") == [
        "fastgan.nn.Gone",
        "fastgan.fuse",
    ]
    assert _each("fastgan.nn.BiasAct{1,2}d") == ["fastgan.nn.BiasAct1d", "fastgan.nn.BiasAct2d"]


@each_page
def test_every_command_and_flag_is_there(page):
    text = page.read_text(encoding="utf-8")
    lines = [
        line for kind in ("console", "bash") for b in _blocks(text, kind) for line in b.splitlines()
    ]
    for words in map(str.split, [line.partition("#")[0] for line in lines] + _spans(text)):
        if "fastgan" in words[:-1] and not {"pip", "import"} & {*words}:
            name, rest = words[words.index("fastgan") + 1], words[words.index("fastgan") + 2 :]
            assert name in (*COMMANDS, "COMMAND", "--help", "--version"), words
            assert {w.partition("=")[0] for w in rest if w.startswith("--")} <= _flags(name), words
    alone = {flag for span in _spans(text) for flag in re.findall(r"^--[a-z][a-z0-9-]+", span)}
    assert alone <= {flag for name in COMMANDS for flag in _flags(name)} | FOREIGN


def test_every_message_of_the_troubleshooting_page_stands_in_the_source():
    rows = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8").splitlines()
    quoted = [row.split("`")[1] for row in rows if row.startswith("| `")]
    texts = [text for file in (ROOT / "fastgan").rglob("*.py") for text in _texts(file)]
    assert len(quoted) > 15
    gone = [m for m in quoted if not any(m in text for text in texts)]
    assert not gone


def test_the_house_is_that_of_the_tree():
    """CONTRIBUTING's table has every room of the package, and none that is gone."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = page.partition("## The house")[2].partition("\n## ")[0]
    heads = re.findall(r"^\|(.*?)\|", table, re.MULTILINE)
    named = {name for head in heads for name in re.findall(r"`([\w./]+)`", head)}
    assert all((ROOT / name).exists() for name in named)
    rooms = {f"fastgan/{p.parent.name}/" for p in (ROOT / "fastgan").glob("*/__init__.py")}
    assert rooms <= named


def _spans(text: str) -> list[str]:
    """What stands between backticks, outside of blocks."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", prose)]


def _blocks(text: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def _names_of(block: str) -> list[str]:
    """What a block of Python imports from the package, and reads of it."""
    found = []
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fastgan"):
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute) and (name := ast.unparse(node)).startswith("fastgan."):
            found += [name] if name.replace(".", "").isidentifier() else []
    return found


def _each(name: str) -> list[str]:
    """`a{1,2}b` as a1b and a2b."""
    match = re.fullmatch(r"(.*)\{(.*)\}(.*)", name)
    return [match[1] + part + match[3] for part in match[2].split(",")] if match else [name]


def _exists(name: str) -> bool:
    found: Any = fastgan
    path = "fastgan"
    for part in name.split(".")[1:]:
        path = f"{path}.{part}"
        try:
            found = getattr(found, part) if hasattr(found, part) else import_module(path)
        except ImportError:
            return False
    return True


@cache
def _flags(command: str) -> set[str]:
    kinds = {"data": [Fetch, Check]}.get(command)
    fields = {f"--{f.replace('_', '-')}" for kind in kinds or () for f in kind.__annotations__}
    known = {"--help"} | fields
    return known | {"--verbose"} | ({*words_of(command)} if command in COMMANDS else set())


def _texts(file: Path) -> list[str]:
    """The texts of a module, with … where a value stands."""

    def text(node: ast.AST) -> str:
        if isinstance(node, ast.JoinedStr):
            return "".join(map(text, node.values))
        return node.value if isinstance(node, ast.Constant) else "…"

    tree = ast.parse(file.read_text(encoding="utf-8"))
    return [
        text(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        or (isinstance(node, ast.Constant) and isinstance(node.value, str))
    ]
