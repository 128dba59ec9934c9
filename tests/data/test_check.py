"""What a set holds is told before anyone trains on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastgan.cli import main
from fastgan.data import DataError
from fastgan.data.check import check_data


def picture(path: Path, shade: int, mode: str = "RGB", size: tuple[int, int] = (4, 4)) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.new(mode, size, shade if mode == "L" else (shade, 0, 0)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(8):
        picture(tmp_path / "dogs" / f"{i}.png", i)
    picture(tmp_path / "cats" / "a.jpg", 200, size=(6, 4))
    picture(tmp_path / "cats" / "b.png", 3)  # the pixels of dogs/3.png
    picture(tmp_path / "owls" / "grey.png", 9, "L")
    (tmp_path / "owls" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n no more")
    (tmp_path / "owls" / "c.psd").write_bytes(b"8B")
    (tmp_path / "notes.txt").write_text("")
    return tmp_path


def test_a_folder(folder: Path) -> None:
    found = check_data(folder)
    assert found.images == 11
    assert found.sizes == {(4, 4): 10, (6, 4): 1}
    assert found.modes == {"PNG RGB": 9, "JPEG RGB": 1, "PNG L": 1}
    assert found.kinds == {(3, "uint8"): 10, (1, "uint8"): 1}
    assert [name for name, _ in found.unreadable] == ["owls/torn.png"]
    assert found.duplicates == [["cats/b.png", "dogs/3.png"]]
    assert found.crossing == 1
    assert found.classes == {"cats": 2, "dogs": 8, "owls": 1}
    assert found.ignored == {".psd": 1, ".txt": 1}


def test_what_is_found_is_said_with_what_to_do(folder: Path, capsys) -> None:
    assert main(["data", "check", str(folder)]) == 0
    text = capsys.readouterr().out
    for part in (
        "11 images can be read",
        "sizes: 4x4 (10), 6x4 (1)\n  they differ: --image-size",
        "classes: dogs (8), cats (2), owls (1)\n  imbalanced, the largest has 8 times as many",
        "unreadable: 1, which training skips and counts\n  owls/torn.png: ",
        "duplicates: 1 in 1 groups, 1 of them in two classes\n  cats/b.png = dogs/3.png",
        "not read, by suffix: ",
    ):
        assert part in text


def test_arrays_and_sets_in_the_package(tmp_path: Path) -> None:
    images = np.arange(5 * 5 * 6, dtype=np.uint8).reshape(5, 5, 6)
    images[2] = images[0]
    np.savez(tmp_path / "a.npz", images=images, labels=np.array([0, 1, 1, 1, 1]))
    found = check_data(tmp_path / "a.npz")
    assert (found.images, found.sizes, found.kinds) == (5, {(6, 5): 5}, {(1, "uint8"): 5})
    assert found.duplicates == [["image 0", "image 2"]]
    assert found.classes == {"0": 1, "1": 4}
    np.save(tmp_path / "b.npy", images)
    assert check_data(tmp_path / "b.npy").text().endswith("image 0 = image 2")


def test_what_is_no_set(tmp_path: Path, capsys) -> None:
    with pytest.raises(DataError, match="no image in this folder"):
        check_data(tmp_path)
    assert main(["data", "check", str(tmp_path / "none")]) == 2
    assert "neither a path that exists nor one of" in capsys.readouterr().err
    assert main(["data", "chek", "x"]) == 2
    assert "fastgan data check PATH" in capsys.readouterr().err
