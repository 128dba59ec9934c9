from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fastgan.data import DataError, ImageDataset, listing
from fastgan.data.archive import list_archive
from fastgan.data.listing import load_listing
from fastgan.data.options import LoadOptions

Png = Callable[..., bytes]


def pack(path: Path, content: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as out:
        for name, data in content.items():
            # A ZipInfo keeps the name as it is; writestr(str) would clean it up.
            info = zipfile.ZipInfo("x")
            info.filename = name
            info.compress_type = method
            out.writestr(info, data)
    return path


def load_archive(path: Path, options: LoadOptions) -> ImageDataset:
    return load_listing(list_archive(path), options)


def test_flat_and_wrapped(tmp_path: Path, png: Png, options: LoadOptions) -> None:
    for prefix in ("", "all/", "all/of/it/"):
        path = pack(
            tmp_path / "a.zip",
            {
                f"{prefix}2.png": png(2),
                f"{prefix}1.png": png(1),
                "readme.txt": b"x",
                "__MACOSX/._1.png": b"junk",
            },
        )
        dataset = load_archive(path, options)
        assert dataset.images[:, 0, 0, 0].tolist() == [1, 2]
        assert dataset.labels is None


def test_classes(tmp_path: Path, png: Png, options: LoadOptions) -> None:
    content = {"set/b/1.png": png(3), "set/a/1.png": png(1), "set/a/x/2.png": png(2)}
    dataset = load_archive(pack(tmp_path / "a.zip", content), options)
    assert dataset.classes == ("a", "b")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [0, 0, 1]
    assert dataset.images[:, 0, 0, 0].tolist() == [1, 2, 3]


def test_truncated_image_among_good_ones(
    tmp_path: Path, png: Png, truncated_png: bytes, options: LoadOptions
) -> None:
    path = pack(tmp_path / "a.zip", {"1.png": truncated_png, "2.png": png(2)})
    with pytest.warns(UserWarning, match="skipped 1 of 2"):
        assert load_archive(path, options).skipped == 1
    with pytest.raises(DataError, match=r"1\.png"):
        load_archive(path, LoadOptions(strict=True))


def test_bad_crc_is_a_damaged_image(tmp_path: Path, png: Png, options: LoadOptions) -> None:
    path = pack(tmp_path / "a.zip", {"1.png": png(1), "2.png": png(2)}, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 6] ^= 0xFF
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"skipped 1 of 2 .*1\.png.*CRC"):
        assert load_archive(path, options).images[0, 0, 0, 0] == 2


@pytest.mark.parametrize(
    "name", ["../1.png", "a/../../1.png", "/etc/1.png", "..\\1.png", "C:\\1.png", "C:1.png", "../x"]
)
def test_names_that_point_outside(
    tmp_path: Path, png: Png, options: LoadOptions, name: str
) -> None:
    path = pack(tmp_path / "a.zip", {"good.png": png(1), name: png(2)})
    with pytest.raises(DataError, match="points outside the archive: refused"):
        load_archive(path, options)


def test_folder_entries_are_no_images(tmp_path: Path, png: Png, options: LoadOptions) -> None:
    path = pack(tmp_path / "a.zip", {"a.png/": b"", "a.png/1.png": png(1)})
    assert load_archive(path, options).skipped == 0


def test_dots_inside_names_are_fine(tmp_path: Path, png: Png, options: LoadOptions) -> None:
    assert len(load_archive(pack(tmp_path / "a.zip", {"a..b/1..png.png": png(1)}), options)) == 1


def test_encrypted(tmp_path: Path, png: Png, options: LoadOptions) -> None:
    path = pack(tmp_path / "a.zip", {"1.png": png(1)})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag in the central directory
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"'1\.png' is encrypted"):
        load_archive(path, options)


def declare(path: Path, size: int) -> None:
    """Overwrite the unpacked size of the first entry in the central directory."""
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.index(b"PK\x01\x02") + 24, size)
    path.write_bytes(content)


def test_bomb_by_declared_size(tmp_path: Path, png: Png, options: LoadOptions) -> None:
    path = pack(tmp_path / "a.zip", {"1.png": png(1)})
    declare(path, 600 * 1024**2)
    with pytest.raises(DataError, match=r"629145600 bytes, more than .*zip bomb"):
        load_archive(path, options)


def test_bomb_by_total(
    tmp_path: Path, png: Png, options: LoadOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pack(tmp_path / "a.zip", {f"{i}.png": png(i) for i in range(10)})
    monkeypatch.setattr(listing, "MAX_UNPACKED_BYTES", 5 * len(png(1)))
    with pytest.raises(DataError, match="zip bomb"):
        load_archive(path, options)


def test_bomb_that_understates_its_size(tmp_path: Path, png: Png, options: LoadOptions) -> None:
    # Ten megabytes that claim to be a hundred bytes: no more than these are unpacked.
    path = pack(tmp_path / "a.zip", {"1.png": png(1)[:50] + bytes(10_000_000), "2.png": png(2)})
    declare(path, 100)
    with pytest.warns(UserWarning, match=r"skipped 1 of 2 .*CRC"):
        assert len(load_archive(path, options)) == 1


def test_image_bomb_inside(tmp_path: Path, bomb_png: bytes, options: LoadOptions) -> None:
    with pytest.raises(DataError, match="decompression bomb"):
        load_archive(pack(tmp_path / "a.zip", {"1.png": bomb_png}), options)


def test_no_image_and_no_zip(tmp_path: Path, options: LoadOptions) -> None:
    with pytest.raises(DataError, match="no image in this archive"):
        load_archive(pack(tmp_path / "a.zip", {"a.txt": b"x"}), options)
    (tmp_path / "b.zip").write_bytes(b"not a zip")
    with pytest.raises(DataError, match="not a zip archive"):
        load_archive(tmp_path / "b.zip", options)
    whole = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "b.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="not a zip archive, or damaged"):
        load_archive(tmp_path / "b.zip", options)
    with pytest.raises(FileNotFoundError):
        load_archive(tmp_path / "none.zip", options)


def test_unknown_compression(tmp_path: Path, png: Png, options: LoadOptions) -> None:
    path = pack(tmp_path / "a.zip", {"1.png": png(1)})
    content = bytearray(path.read_bytes())
    struct.pack_into("<H", content, content.index(b"PK\x01\x02") + 10, 97)
    struct.pack_into("<H", content, 8, 97)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"'1\.png'.*compression"):
        load_archive(path, options)
