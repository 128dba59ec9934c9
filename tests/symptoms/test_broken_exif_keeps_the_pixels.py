"""A picture whose EXIF is no TIFF, or damaged, keeps its pixels; its orientation is unknown."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan.data import load, stream

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
# TIFF: byte order, 42, where the directory stands; then one entry of it, the orientation.
TURNED = b"MM\0\x2a\0\0\0\x08" + b"\0\x01" + b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0" + bytes(4)
BROKEN = {
    "no-tiff": b"not a TIFF file",
    "empty": b"",
    "cut": TURNED[:12],
    "elsewhere": TURNED[:4] + b"\xff\xff\xff\xff" + TURNED[8:],
    "unknown-orientation": TURNED[:18] + b"\0\x63" + TURNED[20:],
    "text-as-orientation": TURNED[:12] + b"\0\x02\0\0\0\x02a\0\0\0" + bytes(4),
}


def write(path: Path, exif: bytes) -> Path:
    lossless = {"lossless": True} if path.suffix == ".webp" else {}
    Image.fromarray(PIXELS).save(path, exif=exif, **lossless)
    return path


@pytest.mark.parametrize("kind", ["png", "webp"])
@pytest.mark.parametrize("exif", BROKEN.values(), ids=BROKEN)
def test_pixels_are_kept(tmp_path: Path, kind: str, exif: bytes) -> None:
    write(tmp_path / f"1.{kind}", exif)
    expected = torch.from_numpy(PIXELS).permute(2, 0, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own, of damaged tags
        assert torch.equal(load(tmp_path, strict=True).images[0], expected)
        assert torch.equal(stream(tmp_path, strict=True).read(0), expected)


@pytest.mark.parametrize("kind", ["png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_whole_exif_turns_the_picture_as_pillow_does(
    tmp_path: Path, kind: str, orientation: int
) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write(tmp_path / f"1.{kind}", exif.tobytes())
    with Image.open(path) as image:
        expected = np.array(ImageOps.exif_transpose(image))
    assert torch.equal(load(path.parent).images[0], torch.from_numpy(expected).permute(2, 0, 1))


def test_a_jpeg_too(tmp_path: Path) -> None:
    stream_ = io.BytesIO()
    Image.fromarray(PIXELS).save(stream_, "JPEG")
    plain = stream_.getvalue()
    for name, exif in BROKEN.items():
        body = b"Exif\0\0" + exif
        segment = b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body
        (tmp_path / f"{name}.jpg").write_bytes(plain[:2] + segment + plain[2:])
    (tmp_path / "a-plain.jpg").write_bytes(plain)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = load(tmp_path, strict=True).images
    assert torch.equal(images, images[:1].expand_as(images))
