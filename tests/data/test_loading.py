from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastgan.data import DataError, load

Png = Callable[..., bytes]
Write = Callable[..., Path]
IMAGES = np.arange(5 * 9 * 8, dtype=np.uint8).reshape(5, 9, 8)


def test_every_kind_of_path(tmp_path: Path, png: Png, write_idx: Write) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "1.png").write_bytes(png(1, 8, 9))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as out:
        out.write(folder / "1.png", "1.png")
    (tmp_path / "zip-without-suffix").write_bytes((tmp_path / "a.zip").read_bytes())
    np.save(tmp_path / "a.npy", IMAGES)
    np.savez(tmp_path / "a.npz", images=IMAGES)
    idx = [
        write_idx(tmp_path / "idx" / "train-images-idx3-ubyte", IMAGES),
        write_idx(tmp_path / "plain.idx", IMAGES),
        write_idx(tmp_path / "packed.gz", IMAGES),
    ]
    others = ["folder", "a.zip", "zip-without-suffix", "a.npy", "a.npz", "idx"]
    for path in [*idx, *(tmp_path / name for name in others)]:
        for source in (path, str(path)):
            dataset = load(source, image_size=6, channels=3, limit=1)
            assert dataset.images.shape == (1, 3, 6, 6), path
    assert load(tmp_path / "idx").name.endswith("train-images-idx3-ubyte")


def test_resize_and_background_reach_the_image(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((5, 4, 8), np.uint8))
    padded = load(tmp_path / "a.npy", image_size=8, resize="pad", background=(9, 9, 9))
    assert padded.images[0, 0, :, 0].tolist() == [9, 9, 0, 0, 0, 0, 9, 9]
    assert load(tmp_path / "a.npy", image_size=4).images.unique().tolist() == [0]


def test_layout_reaches_the_array(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 9, 8), np.uint8))
    assert load(tmp_path / "a.npy", layout="CHW").images.shape == (1, 3, 9, 8)
    with pytest.raises(DataError, match=r"a\.npy: the layout .* cannot be told"):
        load(tmp_path / "a.npy")


def test_max_pixels_reaches_the_decoder(tmp_path: Path, png: Png) -> None:
    (tmp_path / "1.png").write_bytes(png(1, 8, 9))
    with pytest.raises(DataError, match="max_pixels = 71"):
        load(tmp_path, max_pixels=71)


@pytest.mark.parametrize(
    ("source", "suggestion"),
    [("mnst5k", "mnist5k"), ("MNIST", "mnist"), ("fashionmnist", "fashion-mnist")],
)
def test_unknown_names(source: str, suggestion: str) -> None:
    with pytest.raises(FileNotFoundError, match=rf"did you mean '{suggestion}'\?.*\.zip") as caught:
        load(source)
    assert repr(source) in str(caught.value)


def test_missing_path(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none' is neither a path.*mnist5k, mnist"):
        load(tmp_path / "none")


def test_name_wins_over_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, png: Png) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist5k").mkdir()
    (tmp_path / "mnist5k" / "1.png").write_bytes(png(1))
    assert len(load("mnist5k")) == 5000
    assert len(load("./mnist5k")) == 1
    assert len(load(Path("mnist5k"))) == 1


@pytest.mark.parametrize("name", ["a.txt", "a"])
def test_unknown_kind_of_file(tmp_path: Path, png: Png, name: str) -> None:
    (tmp_path / name).write_bytes(png(1))
    with pytest.raises(DataError, match=r"unknown kind of file: expected an IDX file"):
        load(tmp_path / name)


def test_wrong_magic_is_told_by_the_idx_reader(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"<html>404</html>")
    with pytest.raises(DataError, match=r"expected the magic 00 00 08 03"):
        load(tmp_path / "train-images-idx3-ubyte")
    with pytest.raises(DataError, match=r"expected the magic 00 00 08 03"):
        load(tmp_path)


def test_splits_only_where_there_are_any(tmp_path: Path, png: Png) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    with pytest.raises(ValueError, match="has no splits, got split='test'"):
        load(tmp_path, split="test")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", IMAGES)
    (tmp_path / "a.npy").rename(tmp_path / "a.idx")
    (tmp_path / "a.idx").chmod(0)
    with pytest.raises(PermissionError, match=r"a\.idx"):
        load(tmp_path / "a.idx")


@pytest.mark.parametrize(
    ("option", "error", "message"),
    [
        ({"image_size": 0}, ValueError, "image_size must be at least 1, got 0"),
        ({"image_size": -32}, ValueError, "image_size must be at least 1, got -32"),
        ({"image_size": 32.0}, TypeError, "image_size must be an int, got 32.0 of type float"),
        ({"image_size": True}, TypeError, "image_size must be an int"),
        ({"channels": 0}, ValueError, "channels must be at least 1, got 0"),
        ({"channels": "3"}, TypeError, "channels must be an int, got '3'"),
        ({"limit": 0}, ValueError, "limit must be at least 1"),
        ({"limit": 1.5}, TypeError, "limit must be an int"),
        ({"max_pixels": 0}, ValueError, "max_pixels must be at least 1"),
        ({"resize": "centre-crop"}, ValueError, r"resize must be one of .* mean 'center-crop'\?"),
        ({"resize": None}, ValueError, "resize must be one of"),
        ({"split": "val"}, ValueError, "split must be one of 'train', 'test', got 'val'"),
        ({"layout": "nchw"}, ValueError, "layout must be one of"),
        ({"background": (0, 0)}, TypeError, r"background must be a tuple \(R, G, B\)"),
        ({"background": 0}, TypeError, r"background must be a tuple"),
        ({"background": (0, 0, 256)}, ValueError, r"background must lie in 0\.\.255"),
        ({"background": (0, 0, -1)}, ValueError, r"background must be at least 0"),
        ({"background": (0, 0, 0.5)}, TypeError, r"background must be an int"),
    ],
)
def test_bad_options(option: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load("mnist5k", **option)


@pytest.mark.parametrize("source", [None, 5, b"mnist5k"])
def test_bad_source(source: Any) -> None:
    with pytest.raises(TypeError, match="source must be a str or a path"):
        load(source)


def test_empty_source() -> None:
    with pytest.raises(ValueError, match="source must not be empty"):
        load("")


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="neither a file nor a folder"):
        load(tmp_path / "pipe")


def test_importing_fastgan_does_not_load_data_code() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import fastgan, sys; print('PIL' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout == "False\n"
    assert done.stderr == ""


def test_a_mistyped_folder_is_told_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(FileNotFoundError, match=r"did you mean '.*photos'\?"):
        load(tmp_path / "phots")


def test_one_image_alone_is_told_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "face.JPG").write_bytes(b"\xff\xd8")
    with pytest.raises(DataError, match="one image alone: give the folder"):
        load(tmp_path / "face.JPG")


def test_what_begins_with_zeros_is_not_taken_for_idx(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    with pytest.raises(DataError, match="unknown kind of file"):
        load(tmp_path / "film.mp4")
