"""What the pages that lead through a task show runs as written, on networks of little width."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image

from fastgan.cli import main
from fastgan.recipes import recipe
from tests.recipes.tiny_recipe import noises, tiny

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = [
    "quickstart",
    "migration",
    *sorted(f"tutorials/{p.stem}" for p in DOCS.glob("tutorials/*")),
]
# In place of what a page says, for time; a resumed run has steps left to make.
SHORT = {"--steps": "2", "--batch-size": "8", "--count": "16", "--samples": "4", "-n": "4"}
LATER = {"--steps": "3"}
# Shown on pages that say first what they need, or of no use in a folder that is thrown away.
SKIPPED = ("fastgan doctor", "fastgan bench", "fastgan explain")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Photos and sounds to train on, where relative paths lead."""
    monkeypatch.chdir(tmp_path)
    for name in ("dcgan-64", "wavegan", "volume-gan"):
        monkeypatch.setitem(recipe._RECIPES, name, tiny(name))
    (tmp_path / "photos").mkdir()
    for i in range(16):
        Image.new("RGB", (20 + i, 24), (16 * i, 100, 255 - 16 * i)).save(f"photos/{i}.jpg")
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_the_page_runs(page: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if "sound" in page:
        pytest.importorskip("soundfile")
        (folder / "sounds").symlink_to(noises())
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    names: dict[str, object] = {"__name__": "page"}
    ran = 0
    for kind, block in re.findall(
        r"^```(python|console)\n(.*?)^```", text, re.DOTALL | re.MULTILINE
    ):
        if kind == "python":
            exec(compile(block, page, "exec"), names)
            ran += 1
            continue
        for line in block.splitlines():
            arguments = shlex.split(line.removeprefix("$ "), comments=True)
            if line.startswith("$ ") and not line[2:].startswith(SKIPPED):
                found = main(_shorter(arguments[arguments.index("fastgan") + 1 :]))
                assert found == 0, (line, capsys.readouterr().err)
                ran += 1
    assert ran >= (1 if page == "migration" else 3)
    assert list((folder / "runs").glob("*/run.json")) or "faster" in page or "own-loop" in page


def _shorter(arguments: list[str]) -> list[str]:
    """With small numbers, and what is not given but takes time."""
    short = SHORT | (LATER if "--resume" in arguments else {})
    made = list(arguments)
    for flag, value in short.items():
        if flag in made:
            made[made.index(flag) + 1] = value
    if made[0] == "train":
        made += [] if "--steps" in made else ["--steps", short["--steps"]]
        made += [] if "--batch-size" in made else ["--batch-size", short["--batch-size"]]
        made += ["--sample-count", "4", "--device", "cpu"]
    return made


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
