"""Pipes, sockets, devices and links to nothing among the images: never opened, told of once."""

from __future__ import annotations

import os
import socket
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fastgan.data import DataError, load, open_images, stream


def fifo(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def dangling(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def circle(path: Path) -> None:
    path.symlink_to(path)


KINDS = [fifo, listening, device, dangling, circle]
Make = Callable[[Path], None]


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Four images in two folders. The working folder is there: a socket's path must be short."""
    for i in range(4):
        path = tmp_path / "set" / str(i % 2) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), i).save(path)
    monkeypatch.chdir(tmp_path)
    return Path("set")


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("opened", [load, stream])
def test_they_are_left_out_with_one_note(images: Path, make: Make, opened: Any) -> None:
    make(images / "0" / "a.png")
    make(images / "1" / "b.png")
    with pytest.warns(UserWarning, match=r"set: left out 2 .*0/a\.png") as told:
        found = opened(images)
    assert len(told) == 1
    assert found.shape == (4, 1, 4, 4)
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert found.skipped == 2
    with pytest.raises((DataError, FileNotFoundError), match=r"0/a\.png"):
        opened(images, strict=True)


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("name", ["x.png", "x.zip", "x.npy", "x.npz", "x.tar", "x-ubyte", "x"])
@pytest.mark.parametrize("opened", [load, stream, open_images])
def test_named_directly_they_are_refused(images: Path, make: Make, name: str, opened: Any) -> None:
    make(Path(name))
    with pytest.raises((DataError, OSError), match=name):
        opened(f"./{name}")


@pytest.mark.parametrize("make", KINDS)
def test_among_shards(images: Path, make: Make) -> None:
    with tarfile.open("a.tar", "w") as shard:
        shard.add("set")
    make(Path("b.tar"))
    with pytest.warns(UserWarning, match=r"left out 1 .*b\.tar"):
        assert len(load(".")) == 4
    with pytest.warns(UserWarning, match=r"left out 1 .*b\.tar"):
        assert len(stream("./*.tar")) == 4


@pytest.mark.parametrize("make", KINDS)
def test_among_mnists_files(images: Path, make: Make) -> None:
    make(images / "train-labels-idx1-ubyte")
    content = bytes((0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 9, 0, 0, 0, 9)) + bytes(162)
    (images / "train-images-idx3-ubyte").write_bytes(content)
    assert load(images).images.shape == (2, 1, 9, 9)
