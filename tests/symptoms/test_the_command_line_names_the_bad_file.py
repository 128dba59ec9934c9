"""`fastgan train --data` with a bad source: exit status 2 and one line that names the file."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastgan.cli import main

LABELS = {"negative.tar": b"-1", "no-number.tar": b"cat", "eleventh.tar": b"10"}


def write(path: Path) -> None:
    """The bad source that the name stands for."""
    name = path.name
    if name == "pipe.npy":
        os.mkfifo(path)
    elif name == "archive.npy":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("images", b"none")
    elif name == "terabytes.npy":
        header = {"descr": "|u1", "fortran_order": False, "shape": (1 << 40, 28, 28)}
        with path.open("wb") as stream:
            np.lib.format.write_array_header_1_0(stream, header)
    elif name in LABELS:
        image = io.BytesIO()
        Image.new("L", (28, 28)).save(image, "PNG")
        with tarfile.open(path, "w") as shard:
            for member, content in (("7.png", image.getvalue()), ("7.cls", LABELS[name])):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                shard.addfile(info, io.BytesIO(content))
    else:
        path.touch()


NAMES = [
    "pipe.npy", "archive.npy", "terabytes.npy", "negative.tar", "no-number.tar", "eleventh.tar",
    "empty.npy", "empty.npz", "empty.zip", "empty.tar", "empty-ubyte", "~nobody-of-this-name",
]  # fmt: skip


@pytest.mark.parametrize("loading", ["resident", "stream", "auto"])
@pytest.mark.parametrize("name", NAMES)
def test_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, loading: str
) -> None:
    source = tmp_path / name
    if not name.startswith("~"):
        write(source)
    data = name if name.startswith("~") else str(source)
    out = tmp_path / "run"
    command = ["train", "cdcgan", f"--data={data}", f"--loading={loading}", f"--out={out}"]
    assert main([*command, "--batch-size=1", "--steps=1", "--device=cpu"]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("fastgan: error: ")
    assert name in errors
    assert errors.count("\n") == 1
    if name == "eleventh.tar" and loading == "stream":
        assert "7.png" in errors  # the image whose class is one too many
    assert not out.exists()
