"""A 16-bit PNG or TIFF keeps its values, 0 to 65535; colour without OpenCV spans 0 to 255."""

from __future__ import annotations

import importlib.util
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from fastgan.data import load, stream
from fastgan.data.image import _flatten_deep

VALUES = [0, 257, 300, 32768, 65000, 65535]


def colour_png(values: list[int], kind: int, channels: int, width: int = 0) -> bytes:
    """A PNG of one row with 16 bits a channel, which Pillow does not write."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return b"".join(
            (struct.pack(">I", len(body)), name, body, struct.pack(">I", zlib.crc32(name + body)))
        )

    row = np.repeat(np.array(values, ">u2"), channels).tobytes()
    header = struct.pack(">IIBBBBB", width or len(values), 1, 16, kind, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize("opened", [load, stream])
def test_grey(tmp_path: Path, opened: Any) -> None:
    Image.fromarray(np.array([VALUES], np.uint16)).save(tmp_path / "1.png")
    found = opened(tmp_path).some(1)
    assert found.dtype == torch.uint16
    assert found.flatten().tolist() == VALUES


@pytest.mark.parametrize("opened", [load, stream])
def test_colour_without_opencv_is_8_bits_and_says_so(
    tmp_path: Path, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    (tmp_path / "1.png").write_bytes(colour_png(VALUES, 2, 3))
    with pytest.warns(UserWarning, match=r"read as 8 bits: pip install 'fastgan\[depth\]'"):
        found = opened(tmp_path).some(1)
    assert found.dtype == torch.uint8
    for channel in found[0]:
        assert np.abs(channel.flatten().numpy() - np.array(VALUES) / 257).max() <= 1


needs_opencv = pytest.mark.skipif(
    importlib.util.find_spec("cv2") is None, reason="needs fastgan[depth]"
)


@needs_opencv
@pytest.mark.parametrize("opened", [load, stream])
def test_colour(tmp_path: Path, opened: Any) -> None:
    rgb = [
        v
        for triple in zip(VALUES, VALUES[::-1], VALUES[1:] + VALUES[:1], strict=True)
        for v in triple
    ]
    (tmp_path / "1.png").write_bytes(colour_png(rgb, 2, 1, width=6))
    found = opened(tmp_path).some(1)
    assert found.dtype == torch.uint16
    assert found[0, :, 0].tolist() == [VALUES, VALUES[::-1], VALUES[1:] + VALUES[:1]]


@needs_opencv
def test_opacity_and_rotation(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(colour_png([100, 200, 300, 65535, 7, 8, 9, 0], 6, 1, width=2))
    found = load(tmp_path, background=(255, 0, 255)).images[0, :, 0].tolist()
    assert found == [[100, 65535], [200, 0], [300, 65535]]
    (tmp_path / "1.png").write_bytes(colour_png([40_000, 65535, 7, 0], 4, 1, width=2))
    assert load(tmp_path).images[0, 0].tolist() == [[40_000, 65535]]


@needs_opencv
def test_colour_of_tiff_with_orientation(tmp_path: Path) -> None:
    import cv2

    pixels = np.array([[[300, 400, 500], [65535, 0, 1]]], np.uint16)
    cv2.imwrite(str(tmp_path / "plain.tif"), pixels[..., ::-1])
    assert load(tmp_path).images[0].permute(1, 2, 0).tolist() == pixels.tolist()
    with Image.open(tmp_path / "plain.tif") as image:
        image.getexif()[ExifTags.Base.Orientation] = 3
        turned = _flatten_deep(pixels, image, (0, 0, 0))
    assert turned.tolist() == pixels[:, ::-1].tolist()
