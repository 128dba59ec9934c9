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


def test_a_jpeg_that_is_resized_anyway_is_decoded_reduced(tmp_path: Path) -> None:
    left_dark = Image.new("L", (80, 40), 200)
    left_dark.paste(50, (0, 0, 40, 40))
    left_dark.save(tmp_path / "1.jpg", quality=95)
    found = load(tmp_path, image_size=(4, 8), max_pixels=40 * 20).images[0, 0]
    assert found[:, :3].float().mean().item() == pytest.approx(50, abs=3)
    assert found[:, 5:].float().mean().item() == pytest.approx(200, abs=3)
    with pytest.raises(DataError, match="80x40 pixels are more than max_pixels = 49"):
        load(tmp_path, image_size=8, max_pixels=49)  # an eighth of each side has 50
    with pytest.raises(DataError, match="80x40 pixels are more than max_pixels"):
        load(tmp_path, max_pixels=40 * 20)  # of another size than the others
