"""A file name is bytes: one that is not UTF-8 loads, streams and trains like any other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from fastgan.data import load, stream


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight images in a folder, a class and files whose names are Latin-1."""
    for i in range(8):
        path = tmp_path / os.fsdecode(b"na\xefve") / os.fsdecode(b"\xe9t\xe9") / f"{i}.png"
        if i == 3:
            path = path.with_name(os.fsdecode(b"caf\xe9.png"))
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            Image.new("L", (28, 28), i).save(path)
        except OSError as error:
            pytest.skip(f"this file system keeps no such name: {error}")
    return path.parents[1]


def test_both_modes(folder: Path) -> None:
    whole, opened = load(folder), stream(folder)
    assert opened.some(8).equal(whole.images)
    assert opened.fingerprint() == stream(folder).fingerprint()


def test_the_fingerprint_of_ordinary_names_has_not_changed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("a/1.png", "a/größe.png"):
        (tmp_path / name).write_bytes(b"x" * 9)
    from fastgan.data.folder import list_folder
    from fastgan.data.options import LoadOptions

    assert list_folder(tmp_path).fingerprint(LoadOptions(image_size=8, channels=1)) == FINGERPRINT


FINGERPRINT = "3a96413e6f8f3a34682c6937f24463cc64c3de9cd83ec7ad89f25b36f567d5ec"


def test_the_command_line(folder: Path, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "fastgan", "train", "mlp-gan", "--device=cpu", "--steps=1",
        "--batch-size=4", f"--data={folder}", "--loading=stream", f"--out={tmp_path / 'run'}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    run = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert run["load"]["data"] == str(folder)
