"""WebDataset shards, written by the webdataset package and by hand."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastgan.data import DataError, load, stream

Png = Callable[..., bytes]


def write(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as shard:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            shard.addfile(info, io.BytesIO(content))
    return path


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_shards_of_the_webdataset_package(tmp_path: Path, png: Png) -> None:
    wds = pytest.importorskip("webdataset")
    with wds.ShardWriter(str(tmp_path / "train-%03d.tar"), maxcount=4, verbose=0) as sink:
        for i in range(10):
            sink.write({"__key__": f"sample{i:04}", "png": png(i), "cls": i % 3, "json": {"i": i}})
    assert len(list(tmp_path.iterdir())) == 3
    for source in (tmp_path, tmp_path / "train-*.tar"):
        dataset = load(source)
        assert dataset.images[:, 0, 0, 0].tolist() == list(range(10))
        assert dataset.labels is not None
        assert dataset.labels.tolist() == [i % 3 for i in range(10)]
    opened = stream(tmp_path)
    assert opened.shards == (4, 4, 2)
    assert [int(opened.read(i)[0, 0, 0]) for i in range(10)] == list(range(10))
    assert len(load(tmp_path / "train-001.tar")) == 4


def test_arrays_of_many_channels(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 7, 6), dtype=np.uint8)
    write(tmp_path / "a.tar", {f"{i}.npy": npy(x) for i, x in enumerate(images)})
    assert torch.equal(load(tmp_path / "a.tar", layout="CHW").images, torch.from_numpy(images))
    opened = stream(tmp_path / "a.tar", layout="CHW")
    assert opened.shape == (4, 5, 7, 6)
    assert torch.equal(opened.read(2), torch.from_numpy(images[2]))
    with pytest.raises(DataError, match=r"a.tar/0.npy: .*\[5, 7, 6\] is 5 images, expected one"):
        load(tmp_path / "a.tar")


def test_names_with_folders_and_dots_and_samples_without_an_image(tmp_path: Path, png: Png) -> None:
    members = {"a/1.left.png": png(1), "a/1.json": b"{}", "b/1.png": png(2), "b/2.txt": b"x"}
    dataset = load(write(tmp_path / "a.tar", members))
    assert dataset.images[:, 0, 0, 0].tolist() == [1, 2]
    assert dataset.labels is None


def test_limit_keeps_count_of_shards(tmp_path: Path, png: Png) -> None:
    for name in "abc":
        write(tmp_path / f"{name}.tar", {f"{i}.png": png(i) for i in range(4)})
    opened = stream(tmp_path, limit=5)
    assert opened.shards is not None
    assert sum(opened.shards) == len(opened) == 5
    assert stream(tmp_path, limit=1).shards == (1,)


def test_a_damaged_image_is_skipped_or_an_error(tmp_path: Path, png: Png) -> None:
    path = write(tmp_path / "a.tar", {"1.png": png(1)[:40], "2.png": png(2), "3.npy": b"junk"})
    with pytest.warns(UserWarning, match="skipped 2 of 3"):
        assert load(path, image_size=8, channels=1).skipped == 2
    with pytest.raises(DataError, match=r"a.tar/1\.png"):
        load(path, strict=True)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"1.png": b"", "1.jpg": b""}, "the sample '/1' has two images: 1.png and 1.jpg"),
        ({"1.txt": b""}, r"no image in these shards \(\.png, .* are read\)"),
        ({"1.png": b"", "1.cls": b"3", "2.png": b""}, "1 of 2 samples have a label"),
        (
            {"1.png": b"", "1.cls": b"cat"},
            "'1.cls' holds no class: expected a whole number from 0 .* got b'cat'",
        ),
    ],
)
def test_errors(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(write(tmp_path / "a.tar", members))


def test_damaged_and_compressed_shards(tmp_path: Path, png: Png) -> None:
    whole = write(tmp_path / "a.tar", {"1.png": png(1), "2.png": bytes(20_000)}).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:8000])
    with pytest.raises(DataError, match=r"cut.tar: truncated in '2\.png'"):
        load(tmp_path / "cut.tar")
    (tmp_path / "junk.tar").write_bytes(b"x" * 2000)
    with pytest.raises(DataError, match=r"junk.tar: not an uncompressed tar archive"):
        load(tmp_path / "junk.tar")
    with pytest.raises(DataError, match="not an uncompressed tar archive"):
        load(write(tmp_path / "packed.tar", {"1.png": png(1)}, "w:gz"))
    with pytest.raises(FileNotFoundError, match=r"none-\*\.tar"):
        load(tmp_path / "none-*.tar")


@pytest.mark.parametrize("opened", [load, stream])
def test_what_follows_a_damaged_header_is_not_lost_unseen(
    tmp_path: Path, png: Png, opened: Any
) -> None:
    path = write(tmp_path / "a.tar", {f"{i}.png": png(i) for i in range(4)})
    whole = path.read_bytes()
    second = 1024  # a header and a block each
    path.write_bytes(whole[:second] + b"\xff" * 512 + whole[second + 512 :])
    with pytest.raises(DataError, match=r"a\.tar: damaged .*: no tar header at byte 1024"):
        opened(path)
    path.write_bytes(whole[: second + 100])
    with pytest.raises(DataError, match="no tar header at byte 1024"):
        opened(path)
    path.write_bytes(whole[:second])
    with pytest.warns(UserWarning, match="without the mark of a tar's end: it may be truncated"):
        assert len(opened(path)) == 1
