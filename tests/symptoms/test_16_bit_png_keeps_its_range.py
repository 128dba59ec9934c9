"""A 16-bit PNG keeps its values, 0 to 65535; in colour it spans 0 to 255 as it spans these."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan.data import load, stream

VALUES = [0, 257, 300, 32768, 65000, 65535]


def colour_png(values: list[int], kind: int, channels: int) -> bytes:
    """A PNG of one row with 16 bits a channel, which Pillow does not write."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return b"".join(
            (struct.pack(">I", len(body)), name, body, struct.pack(">I", zlib.crc32(name + body)))
        )

    row = np.repeat(np.array(values, ">u2"), channels).tobytes()
    header = struct.pack(">IIBBBBB", len(values), 1, 16, kind, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize("opened", [load, stream])
def test_grey(tmp_path: Path, opened: Any) -> None:
    Image.fromarray(np.array([VALUES], np.uint16)).save(tmp_path / "1.png")
    found = opened(tmp_path).some(1)
    assert found.dtype == torch.uint16
    assert found.flatten().tolist() == VALUES


@pytest.mark.parametrize("opened", [load, stream])
def test_colour(tmp_path: Path, opened: Any) -> None:
    (tmp_path / "1.png").write_bytes(colour_png(VALUES, 2, 3))
    found = opened(tmp_path).some(1)
    for channel in found[0]:
        assert np.abs(channel.flatten().numpy() - np.array(VALUES) / 257).max() <= 1
