"""Grey, grey with alpha, palette and RGBA images among RGB ones come out as they look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fastgan.data import load, stream

RED = (255, 0, 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, *RED])
    pictures = {
        "0-rgb": Image.new("RGB", (4, 4), RED),
        "1-grey": Image.new("L", (4, 4), 77),
        "2-grey-alpha": Image.new("LA", (4, 4), (10, 0)),
        "3-rgba": Image.new("RGBA", (4, 4), (*RED, 255)),
        "4-clear": Image.new("RGBA", (4, 4), (*RED, 0)),
        "5-palette": palette,
        "6-bilevel": Image.new("1", (4, 4), 1),
    }
    for name, picture in pictures.items():
        picture.save(tmp_path / f"{name}.png")
    return tmp_path


EXPECTED = [list(RED), [77] * 3, [255] * 3, list(RED), [255] * 3, list(RED), [255] * 3]


@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.parametrize("opened", [load, stream])
def test_all_as_rgb(folder: Path, opened: Any, channels: Any) -> None:
    images = opened(folder, channels=channels, strict=True).some(9)
    assert images.shape == (7, 3, 4, 4)
    assert images[:, :, 2, 2].tolist() == EXPECTED


@pytest.mark.parametrize("opened", [load, stream])
def test_all_as_grey(folder: Path, opened: Any) -> None:
    images = opened(folder, channels=1, strict=True).some(9)
    assert images[:, 0, 2, 2].tolist() == [76, 77, 255, 76, 255, 76, 255]
