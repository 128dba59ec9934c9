"""The documentation: its links lead somewhere, and the quick start runs as it is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
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


def test_the_quick_start_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, names)
    assert (tmp_path / "runs" / "first" / "run.json").exists()
    assert (tmp_path / "runs" / "mine" / "run.json").exists()
