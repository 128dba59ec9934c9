"""A photo that was taken upright is upright: EXIF orientation, in a folder, a zip and a shard."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from fastgan.data import load, stream


def folder(source: Path) -> Path:
    return source


def archive(source: Path) -> Path:
    with zipfile.ZipFile(source.with_suffix(".zip"), "w") as out:
        for path in sorted(source.iterdir()):
            out.write(path, path.name)
    return source.with_suffix(".zip")


def shard(source: Path) -> Path:
    with tarfile.open(source.with_suffix(".tar"), "w") as out:
        for path in sorted(source.iterdir()):
            out.add(path, path.name)
    return source.with_suffix(".tar")


@pytest.mark.parametrize("of", [folder, archive, shard])
@pytest.mark.parametrize("opened", [load, stream])
@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_all_orientations(
    tmp_path: Path, of: Callable[[Path], Path], opened: Any, kind: str
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    expected = []
    (tmp_path / "set").mkdir()
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / "set" / f"{orientation}.{kind}"
        Image.fromarray(pixels).save(path, exif=exif)
        with Image.open(path) as image:
            expected.append(torch.from_numpy(np.array(ImageOps.exif_transpose(image))))
    found = opened(of(tmp_path / "set"), strict=True).some(8)
    assert torch.equal(found, torch.stack(expected).permute(0, 3, 1, 2))
    assert len(found.unique(dim=0)) == 8
