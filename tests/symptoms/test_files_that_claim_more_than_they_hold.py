"""Headers that claim terabytes, members of zeros, arrays that are none: refused unread.

Each by an error that names the file, in every way in which data is opened, and in little memory.
"""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memory_use import memory_at_most

from fastgan.data import DataError, load, open_images, stream

MAX_BYTES = 48 * 1024**2


def npy(shape: tuple[int, ...], dtype: str = "|u1", data: bytes = b"") -> bytes:
    out = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, header)
    return out.getvalue() + data


def npz(members: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how, compresslevel=1) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def tar(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def idx(*shape: int, data: bytes = b"") -> bytes:
    return bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape) + data


def tar_of_size(size: int) -> bytes:
    """A shard whose one member has this size, as a base-256 number of any sign."""
    block = bytearray(tar({"1.png": b"x"})[:512])
    block[124:136] = (size % 2**95 + 2**95).to_bytes(12, "big")
    if size < 0:
        block[124:136] = size.to_bytes(12, "big", signed=True)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + bytes(2048)


GOOD = npy((5, 9, 8), data=bytes(360))
OBJECTS = npy((5,), "|O", pickle.dumps([None] * 5))
HOSTILE: dict[str, Callable[[], bytes]] = {
    "empty.npy": bytes,
    "empty.npz": bytes,
    "text.npy": lambda: b"images",
    "negative.npy": lambda: npy((-5, 9, 8), data=bytes(360)),
    "negatives.npy": lambda: npy((-5, -9, 8), data=bytes(360)),
    "terabytes.npy": lambda: npy((700, 1 << 20, 1 << 20)),
    "beyond.npy": lambda: npy((1 << 62, 1 << 62, 8)),
    "flat.npy": lambda: npy((1,) * 60, data=b"x"),
    "objects.npy": lambda: OBJECTS,
    "pickle.npy": lambda: pickle.dumps(np.zeros(3)),
    "text-array.npy": lambda: npy((5, 9, 8), "<U1", bytes(4 * 360)),
    "fields.npy": lambda: npy((5, 9, 8), [("a", "|u1")], bytes(360)),  # type: ignore[arg-type]
    "subarray.npy": lambda: npy((5, 9, 8), ("|u1", (9, 9)), bytes(360)),  # type: ignore[arg-type]
    "objects.npz": lambda: npz({"images.npy": OBJECTS}),
    "labels-of-objects.npz": lambda: npz({"images.npy": GOOD, "labels.npy": OBJECTS}),
    "negative.npz": lambda: npz({"images.npy": npy((-5, 9, 8))}),
    "terabytes.npz": lambda: npz({"images.npy": npy((700, 1 << 20, 1 << 20))}),
    "no-array.npz": lambda: npz({"images": b"these are no images"}),
    "no-array-either.npz": lambda: npz({"images.npy": b"these are no images"}),
    "zeros.npz": lambda: npz({"images": bytes(200 * 1024**2)}),
    "zeros-of-a-header.npz": lambda: npz(
        {"images.npy": b"\x93NUMPY\2\0\xff\xff\xff\x7f" + bytes(200 * 1024**2)}
    ),
    "encrypted.npz": lambda: npz({"images.npy": GOOD}).replace(
        b"PK\x01\x02\x14\x03\x14\0\0", b"PK\x01\x02\x14\x03\x14\0\1"
    ),
    "huge-labels.npz": lambda: npz(
        {"images.npy": GOOD, "labels.npy": npy((5,), "<u8", b"\xff" * 40)}
    ),
    "claims-ubyte": lambda: idx(1 << 14, 1 << 10, 1 << 10),
    "claims.gz": lambda: gzip.compress(idx(1 << 14, 1 << 10, 1 << 10)),
    "claims-too-much-ubyte": lambda: idx(*[(1 << 32) - 1] * 3),
    "terabytes.tar": lambda: tar({"1.npy": npy((700, 1 << 20, 1 << 20))}),
    "objects.tar": lambda: tar({"1.npy": OBJECTS}),
    "negative.tar": lambda: tar({"1.npy": npy((-1, 9, 8))}),
    "negative-size.tar": lambda: tar_of_size(-512),
    "member-of-exabytes.tar": lambda: tar_of_size(1 << 62),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.filterwarnings("ignore:.*skipped")
def test_refused_by_name_in_little_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(HOSTILE[name]())
    for opened in (load, open_images, stream):
        with (
            memory_at_most(MAX_BYTES),
            pytest.raises(ValueError, match=name.partition(".")[0]) as caught,
        ):
            opened(path)
        assert isinstance(caught.value, DataError) or "cannot be streamed" in str(caught.value)


def test_by_content_not_by_name(tmp_path: Path) -> None:
    images = np.arange(5 * 9 * 8).astype(np.uint8).reshape(5, 9, 8)
    (tmp_path / "a.npy").write_bytes(npz({"images.npy": npy((5, 9, 8), data=images.tobytes())}))
    (tmp_path / "b.npz").write_bytes(npy((5, 9, 8), data=images.tobytes()))
    for name in ("a.npy", "b.npz"):
        for opened in (load, open_images):
            found: Any = opened(tmp_path / name)
            assert np.array_equal(found.images[:, 0].numpy(), images)
    assert np.array_equal(stream(tmp_path / "b.npz").some(5)[:, 0].numpy(), images)
    with pytest.raises(ValueError, match="cannot be streamed"):
        stream(tmp_path / "a.npy")


@pytest.mark.parametrize("label", [b"-1", b"cat", b"", b"1.5", b"1_0", b"9" * 30, b"0" * 99])
@pytest.mark.parametrize("opened", [load, stream])
def test_classes_of_shards(tmp_path: Path, label: bytes, opened: Any) -> None:
    content = tar({"1.npy": npy((1, 9, 8), data=bytes(72)), "1.cls": label})
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.tar: '1\.cls' holds no class: expected a whole num"):
        opened(tmp_path)


@pytest.mark.parametrize("opened", [load, stream, open_images])
def test_the_home_of_nobody(opened: Any) -> None:
    with pytest.raises(FileNotFoundError, match="nobody-of-this-name/x"):
        opened("~nobody-of-this-name/x")
