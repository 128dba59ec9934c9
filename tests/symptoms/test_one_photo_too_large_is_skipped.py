"""One photo of more pixels than are allowed is skipped, as a damaged one is."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from fastgan.data import DataError, load, make_loader, stream


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three small pictures, one of 100 million pixels and one that Pillow itself refuses."""
    for i in range(3):
        Image.new("L", (4, 4), i).save(tmp_path / f"{i}.png")
    Image.new("1", (10_000, 10_000)).save(tmp_path / "large.png")
    Image.new("1", (20_000, 10_000)).save(tmp_path / "larger.png")
    return tmp_path


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_in_both_modes(folder: Path) -> None:
    with pytest.warns(UserWarning, match=r"skipped 2 of 5 .* large\.png: 10000x10000 pixels"):
        assert load(folder).skipped == 2
    images = stream(folder)
    loader = make_loader(images, 5, 0, "cpu")
    with pytest.warns(UserWarning, match="skipped") as told:
        values = loader.batch(0)[0][:, 0, 0, 0].add(1).mul(127.5).round().tolist()
    assert sorted(values) == [0, 0, 0, 1, 2]  # the first stands in for the two
    assert {"large.png", "larger.png"} == images.damaged
    assert "max_pixels = 89478485" in "".join(str(warning.message) for warning in told)
    for opened in (load, lambda folder, strict: stream(folder, strict=strict).some(5)):
        with pytest.raises(DataError, match=r"large\.png: 10000x10000 pixels"):
            opened(folder, strict=True)
