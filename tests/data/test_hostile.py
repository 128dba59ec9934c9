"""Every source with its bytes garbled: it loads, or it is an error of the documented kinds.

The errors name the source, come within a moment, and nothing is allocated for what is not there.
$FASTGAN_FUZZ sets how many garbled copies of each are tried.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import struct
import sys
import tarfile
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memory_use import memory_at_most
from PIL import Image

from fastgan.data import DataError, ImageDataset, load, open_images, stream

COPIES = int(os.environ.get("FASTGAN_FUZZ", "40"))
MAX_SECONDS = 10.0
MAX_BYTES = 64 * 1024**2
# liblzma reserves the dictionary that its header names, 4 GiB at most a thread, and touches no more
# of it than it uses.
MAX_RESERVED = {"lzma-zip": 8 * 2**32}
NOISE = np.random.default_rng(0).integers(0, 256, (5, 9, 8), dtype=np.uint8)


def image(kind: str, **how: Any) -> bytes:
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(NOISE[:3].transpose(1, 2, 0)).save(out, kind, exif=exif, **how)
    return out.getvalue()


def saved(save: Callable[..., None], *arrays: Any, **named: Any) -> bytes:
    out = io.BytesIO()
    save(out, *arrays, **named)
    return out.getvalue()


def zipped(members: dict[str, bytes], how: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, how)
    return out.getvalue()


def tarred(members: dict[str, bytes], layout: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=layout) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


IMAGES = {"a/1.png": image("PNG"), "a/2.jpg": image("JPEG"), "b/3.webp": image("WEBP")}
TABLE = {"dataset.json": json.dumps({"labels": [[name, 3] for name in IMAGES]}).encode()}
ARRAY = saved(np.save, NOISE)
IDX = bytes((0, 0, 8, 3)) + struct.pack(">3I", *NOISE.shape) + NOISE.tobytes()
SAMPLES = {
    "1.png": image("PNG"), "1.cls": b"1",
    "2.npy": saved(np.save, NOISE[:1]), "2.cls": b"0",
    "3é.jpg": image("JPEG"), "3é.cls": b"7",
}  # fmt: skip

# What is garbled, and the name by which it is opened; with a folder, what stands beside it.
SOURCES: dict[str, tuple[bytes, str, dict[str, bytes]]] = {
    "png": (IMAGES["a/1.png"], "a/1.png", IMAGES),
    "palette": (saved(Image.fromarray(NOISE[0]).quantize(5).save, "PNG"), "a/1.png", IMAGES),
    "jpeg": (IMAGES["a/2.jpg"], "a/2.jpg", IMAGES),
    "webp": (IMAGES["b/3.webp"], "b/3.webp", IMAGES),
    "table": (TABLE["dataset.json"], "dataset.json", IMAGES),
    "stored-zip": (zipped(IMAGES | TABLE, zipfile.ZIP_STORED), "set.zip", {}),
    "zip": (zipped(IMAGES, zipfile.ZIP_DEFLATED), "set.zip", {}),
    "bzip2-zip": (zipped(IMAGES, zipfile.ZIP_BZIP2), "set.zip", {}),
    "lzma-zip": (zipped(IMAGES, zipfile.ZIP_LZMA), "set.zip", {}),
    "npy": (ARRAY, "set.npy", {}),
    "float-npy": (saved(np.save, NOISE / 255), "set.npy", {}),
    "npz": (saved(np.savez, images=NOISE, labels=np.arange(5)), "set.npz", {}),
    "packed-npz": (saved(np.savez_compressed, images=NOISE, labels=np.arange(5)), "set.npz", {}),
    "idx": (IDX, "set-ubyte", {}),
    "idx-gz": (gzip.compress(IDX, mtime=0), "set.gz", {}),
    "gnu-tar": (tarred(SAMPLES, tarfile.GNU_FORMAT), "set.tar", {}),
    "pax-tar": (tarred(SAMPLES, tarfile.PAX_FORMAT), "set.tar", {}),
    "ustar": (tarred({"1.png": IMAGES["a/1.png"]} | TABLE, tarfile.USTAR_FORMAT), "set.tar", {}),
}
EXTREMES = (
    b"\0", b"\xff", b"\x7f", b"\x80", b"-1", b"9" * 9, b"\xff" * 4, b"\xff" * 8, b"\0" * 8,
    b"\x80" + b"\0" * 11, b"\x80" + b"\0" * 4 + b"\xff" * 7, b"\xff" * 12, b"\x7f" + b"\xff" * 3,
)  # fmt: skip


def garbled(content: bytes, draw: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 5))):
        at = draw.randrange(len(data) + 1)
        # Headers are short, and most of what can go wrong stands in them.
        at = draw.choice((at, min(at, draw.randrange(64)), max(0, len(data) - draw.randrange(99))))
        run = draw.choice((1, 2, 4, 30, 600))
        what = draw.randrange(6)
        if what == 0:
            del data[at:]
        elif what == 1:
            del data[at : at + run]
        elif what == 2:
            data[at:at] = data[at : at + run]
        elif what == 3:
            data[at : at + run] = draw.randbytes(run)
        elif what == 4:
            value = draw.choice(EXTREMES)
            data[at : at + len(value)] = value
        else:
            data[at : at + 1] = bytes([draw.randrange(256)])
    return bytes(data)


def read_stream(source: Path, **options: Any) -> None:
    images = stream(source, **options)
    images.some(99)
    for index in range(len(images)):
        which = images.take(index)[1]
        assert images.labels is None or int(images.labels[which]) >= 0


def read_any(source: Path, **options: Any) -> None:
    found = open_images(source, **options)
    assert isinstance(found, ImageDataset)
    assert found.labels is None or len(found.labels) == len(found.images)


@pytest.mark.parametrize("kind", SOURCES)
def test_loaded_or_an_error_that_names_it(tmp_path: Path, kind: str) -> None:
    content, name, beside = SOURCES[kind]
    source = tmp_path / "set" if beside else tmp_path / name
    for other, bytes_ in beside.items():
        (source / other).parent.mkdir(parents=True, exist_ok=True)
        (source / other).write_bytes(bytes_)
    path = source / name if beside else source
    draw = random.Random(kind)
    for number in range(COPIES):
        path.write_bytes(garbled(content, draw))
        for opened in (load, read_stream, read_any):
            options: dict[str, Any] = {"max_pixels": 10**6, "strict": number % 3 == 0}
            if number % 2:
                options |= {"image_size": 6, "channels": 3}
            with memory_at_most(MAX_BYTES, MAX_RESERVED.get(kind, 0)):
                check(opened, source, options)


def check(opened: Callable[..., object], source: Path, options: Any) -> None:
    begin = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opened(source, **options)
    except (ValueError, OSError) as error:
        own = isinstance(error, (DataError, OSError)) or "cannot be streamed" in str(error)
        if not own or "set" not in str(error):
            raise AssertionError(f"{error!r} is not the package's, or names no file") from error
    assert time.monotonic() - begin < MAX_SECONDS


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell peaks of memory")
def test_memory_that_is_taken_is_noticed() -> None:
    with pytest.raises(AssertionError, match="MB were touched, of 64"), memory_at_most(MAX_BYTES):
        bytearray(2 * MAX_BYTES).count(1)
    with pytest.raises(MemoryError), memory_at_most(MAX_BYTES):
        np.empty(2**32 + MAX_BYTES, np.uint8)
