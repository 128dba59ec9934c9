"""Small files of every kind, made on the spot."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastgan.data.options import LoadOptions


@pytest.fixture
def options() -> LoadOptions:
    return LoadOptions()


@pytest.fixture
def encode() -> Callable[..., bytes]:
    """Return a function from an array (or a Pillow image) to the bytes of an image file."""

    def encode(image: Any, kind: str = "PNG", **how: Any) -> bytes:
        if not isinstance(image, Image.Image):
            image = Image.fromarray(np.asarray(image))
        stream = io.BytesIO()
        image.save(stream, kind, **how)
        return stream.getvalue()

    return encode


@pytest.fixture
def png(encode: Callable[..., bytes]) -> Callable[..., bytes]:
    """Return a function that makes a PNG of one colour."""

    def png(value: int | tuple[int, int, int] = 0, width: int = 8, height: int = 8) -> bytes:
        mode = "L" if isinstance(value, int) else "RGB"
        return encode(Image.new(mode, (width, height), value))

    return png


@pytest.fixture
def truncated_png(encode: Callable[..., bytes]) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    whole = encode(noise)
    return whole[: len(whole) // 2]


@pytest.fixture
def bomb_png() -> bytes:
    """A PNG of a few bytes whose header claims 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    body = zlib.compress(b"\0" * 1000)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.fixture
def write_idx() -> Callable[..., Path]:
    """Return a function that writes an array as an IDX file; gzip if the name ends in .gz."""

    def write_idx(path: Path, array: Any) -> Path:
        array = np.asarray(array, np.uint8)
        header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
        content = header + array.tobytes()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
        return path

    return write_idx
