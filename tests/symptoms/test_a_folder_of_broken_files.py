"""A folder in which no image can be decoded is one clear error, in memory and streamed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fastgan.data import DataError, load, make_loader, stream


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, content in enumerate(
        (b"", b"text", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF0000WEBP")
    ):
        (tmp_path / f"{i}.png").write_bytes(content)
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*skipped")
@pytest.mark.parametrize("opened", [load, stream])
def test_nothing_can_be_decoded(folder: Path, opened: Any) -> None:
    with pytest.raises(DataError, match=r"none of 5 images could be decoded: 0\.png"):
        opened(folder)
    with pytest.raises(DataError, match=r"0\.png: cannot identify"):
        opened(folder, strict=True)


@pytest.mark.filterwarnings("ignore:.*skipped")
def test_with_size_and_channels_given(folder: Path) -> None:
    # The stream needs no file to know its shape: the first batch tells.
    opened = stream(folder, image_size=4, channels=1)
    loader = make_loader(opened, 2, 0, "cpu")
    for _ in range(2):
        with pytest.raises(DataError, match="none of 5 images could be decoded"):
            loader.batch(0)
    # And it goes on as soon as there is an image, in a loader that is made anew.
    Image.new("L", (4, 4), 9).save(folder / "2.png")
    assert make_loader(stream(folder), 2, 0, "cpu").batch(0)[0].shape == (2, 1, 4, 4)
