from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fastgan.data import DataError
from fastgan.data.idx import find_idx, load_idx, read_idx
from fastgan.data.options import LoadOptions

Write = Callable[..., Path]
IMAGES = np.arange(6 * 4 * 5, dtype=np.uint8).reshape(6, 4, 5)
LABELS = np.array([0, 1, 2, 0, 1, 3], np.uint8)
TRAIN, LABEL = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_read(tmp_path: Path, write_idx: Write, suffix: str) -> None:
    assert np.array_equal(read_idx(write_idx(tmp_path / f"a{suffix}", IMAGES)), IMAGES)


def test_gzip_is_told_by_content(tmp_path: Path, write_idx: Write) -> None:
    write_idx(tmp_path / "a.gz", IMAGES).rename(tmp_path / "a")
    assert np.array_equal(read_idx(tmp_path / "a"), IMAGES)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("where", ["", "raw"])
def test_folder(
    tmp_path: Path, write_idx: Write, options: LoadOptions, suffix: str, where: str
) -> None:
    write_idx(tmp_path / where / (TRAIN + suffix), IMAGES)
    write_idx(tmp_path / where / (LABEL + suffix), LABELS)
    dataset = load_idx(tmp_path, options)
    assert torch.equal(dataset.images, torch.from_numpy(IMAGES)[:, None])
    assert dataset.labels is not None
    assert dataset.labels.tolist() == LABELS.tolist()
    assert dataset.classes == ("0", "1", "2", "3")


def test_splits(tmp_path: Path, write_idx: Write) -> None:
    write_idx(tmp_path / "t10k-images.idx3-ubyte", IMAGES[:2])
    write_idx(tmp_path / "t10k-labels.idx1-ubyte.gz", LABELS[:2])
    test = load_idx(tmp_path, LoadOptions(split="test"))
    assert len(test) == 2
    assert test.labels is not None
    assert find_idx(tmp_path, "train") is None
    with pytest.raises(FileNotFoundError, match=rf"no IDX file with the train images.*{TRAIN}"):
        load_idx(tmp_path, LoadOptions())


def test_single_file_limit_and_options(tmp_path: Path, write_idx: Write) -> None:
    path = write_idx(tmp_path / TRAIN, IMAGES)
    dataset = load_idx(path, LoadOptions(image_size=8, channels=3, limit=2))
    assert dataset.images.shape == (2, 3, 8, 8)
    assert dataset.labels is None
    write_idx(tmp_path / LABEL, LABELS)
    limited = load_idx(path, LoadOptions(limit=2))
    assert torch.equal(limited.images[:, 0], torch.from_numpy(IMAGES[[0, 3]]))
    assert limited.labels is not None
    assert limited.labels.tolist() == [0, 0]
    other = write_idx(tmp_path / "whatever.idx", IMAGES)
    assert load_idx(other, LoadOptions()).labels is None


def test_counts_that_differ(tmp_path: Path, write_idx: Write, options: LoadOptions) -> None:
    path = write_idx(tmp_path / TRAIN, IMAGES)
    write_idx(tmp_path / LABEL, LABELS[:5])
    with pytest.raises(DataError, match=r"expected 6 labels.*got shape \[5\]"):
        load_idx(path, options)


def test_labels_instead_of_images(tmp_path: Path, write_idx: Write, options: LoadOptions) -> None:
    path = write_idx(tmp_path / LABEL, LABELS)
    with pytest.raises(DataError, match=r"expected images \(3 dimensions.*got 1 dimensions \[6\]"):
        load_idx(path, options)


HEADER = bytes((0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got an empty file"),
        (b"\0\0", "not an IDX file"),
        (b"\x89PNG\r\n", r"expected the magic 00 00 08 03 .*got 89 50 4e 47"),
        (b"\0\0\x08\0" + bytes(8), "not an IDX file"),
        (b"\0\0\x08\x09" + bytes(40), "not an IDX file"),
        (b"\0\0\x0d\x03" + HEADER[4:] + bytes(32), r"type 0x0d is not supported"),
        (HEADER[:10], "ends inside the header"),
        (HEADER + bytes(7), r"truncated.*\[2, 2, 2\] = 8 bytes, only 7"),
        (HEADER + bytes(9), r"= 8 bytes, but more follow"),
        (b"\0\0\x08\x03" + bytes(12), r"\[0, 0, 0\]: expected 1 to"),
        (b"\0\0\x08\x03" + b"\xff" * 12, r"4294967295.*expected 1 to"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_bad_content(tmp_path: Path, content: bytes, message: str, packed: bool) -> None:
    path = tmp_path / "a-idx3-ubyte"
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


def test_damaged_gzip(tmp_path: Path, write_idx: Write) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 20, 20))
    path = write_idx(tmp_path / "a.gz", noise)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="damaged or truncated gzip"):
        read_idx(path)
    path.write_bytes(whole[:-8] + bytes(8))
    with pytest.raises(DataError, match="damaged or truncated gzip"):
        read_idx(path)
    # Right after the gzip header: a deflate block of the type that does not exist.
    path.write_bytes(whole[:10] + b"\xff" + whole[11:])
    with pytest.raises(DataError, match="damaged or truncated gzip"):
        read_idx(path)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_idx(tmp_path / "none")
