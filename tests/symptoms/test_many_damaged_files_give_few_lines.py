"""Thousands of damaged files are told of in a few lines: some by name, all by number."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fastgan.data import DataError, load, make_loader, stream


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(2000):
        (tmp_path / f"{i:04}.png").touch()
    return tmp_path


def told(folder: Path, opened: Any) -> tuple[Any, list[str]]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        try:
            made = opened(folder)
        except DataError as error:
            made = error
    return made, [str(warning.message) for warning in found]


@pytest.mark.parametrize("opened", [load, stream])
def test_nothing_but_empty_files(folder: Path, opened: Any) -> None:
    error, lines = told(folder, opened)
    assert len(lines) <= 7
    assert isinstance(error, DataError)
    assert "none of 2000 images could be decoded" in str(error)
    assert "0000.png" in str(error)


def test_in_a_stream_that_is_trained_on(folder: Path) -> None:
    for i in range(0, 2000, 500):
        Image.new("L", (4, 4), 9).save(folder / f"{i:04}.png")

    def epoch(folder: Path) -> Any:
        images = stream(folder)
        loader = make_loader(images, 500, 0, "cpu")
        for step in range(8):
            loader.batch(step)
        return images

    images, lines = told(folder, epoch)
    assert images.skipped == 1996
    assert [line for line in lines if ".png" in line] == lines[:3]
    assert [line.split(": ")[1].split()[0] for line in lines[3:]] == ["10", "100", "1000"]
