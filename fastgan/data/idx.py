"""IDX files, plain or gzip: the format of MNIST, Fashion-MNIST, EMNIST and KMNIST.

Format: two zero bytes, a type code, the number of dimensions, then each dimension as a big-endian
uint32, then the values (http://yann.lecun.com/exdb/mnist/).
"""

from __future__ import annotations

import gzip
import io
import math
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from fastgan.data.dataset import ImageDataset, spread
from fastgan.data.files import open_regular, read_up_to, reading
from fastgan.data.image import conform
from fastgan.data.options import MAX_UNPACKED_BYTES, LoadOptions, Split
from fastgan.data.source import DataError

_UBYTE = 0x08
_GZIP_MAGIC = b"\x1f\x8b"
# What deflate can at most make of a byte.
_MAX_DEFLATED = 1032
_PREFIX = {"train": "train", "test": "t10k"}


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read one IDX file of unsigned bytes, plain or gzip (told by content, not by name).

    Raises:
        OSError: the file cannot be read.
        DataError: wrong magic, another type than unsigned byte, a dimension of zero, or fewer or
            more bytes than the header says.
    """
    with open_regular(path) as raw:
        packed = raw.read(2) == _GZIP_MAGIC
        size = raw.seek(0, io.SEEK_END)
        raw.seek(0)
        if not packed:
            with reading(path, "damaged IDX file"):
                return _read(raw, path, size)
        with reading(path, "damaged or truncated gzip file"), gzip.open(raw) as stream:
            return _read(stream, path, size * _MAX_DEFLATED)  # type: ignore[arg-type]


def _read(stream: BinaryIO, path: Path, most: int) -> NDArray[np.uint8]:
    """Read an IDX file from a stream that holds no more than `most` bytes."""
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or not 1 <= magic[3] <= 4:
        raise DataError(
            f"{path}: not an IDX file: expected the magic 00 00 08 03 (images) or 00 00 08 01 "
            f"(labels), got {magic.hex(' ') or 'an empty file'}"
        )
    if magic[2] != _UBYTE:
        raise DataError(
            f"{path}: IDX type 0x{magic[2]:02x} is not supported: expected 0x08 (unsigned byte)"
        )
    header = stream.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise DataError(f"{path}: truncated IDX file: it ends inside the header")
    shape = struct.unpack(f">{magic[3]}I", header)
    expected = math.prod(shape)
    if not 0 < expected <= MAX_UNPACKED_BYTES:
        raise DataError(
            f"{path}: the IDX header says {list(shape)}: expected 1 to {MAX_UNPACKED_BYTES} values"
        )
    left = most - len(magic) - len(header)
    # What cannot be there is not tried: the header alone may claim gigabytes.
    data = read_up_to(stream, expected) if expected <= left else bytearray()
    if len(data) < expected:
        raise DataError(
            f"{path}: truncated IDX file: the header says {list(shape)} = {expected} bytes, "
            f"only {len(data) or left} are there"
        )
    if stream.read(1):
        raise DataError(
            f"{path}: the IDX header says {list(shape)} = {expected} bytes, but more follow"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def find_idx(folder: Path, split: Split) -> Path | None:
    """Return the IDX file with the images of `split` in `folder` (or its `raw`), if there is one.

    Names are those of MNIST: `train-images-idx3-ubyte`, `t10k-images.idx3-ubyte`, with or
    without `.gz`; also `test-images…`.
    """
    for base in (folder, folder / "raw"):
        for prefix in dict.fromkeys((_PREFIX[split], split)):
            for separator in "-.":
                for suffix in ("", ".gz"):
                    path = base / f"{prefix}-images{separator}idx3-ubyte{suffix}"
                    if path.is_file():
                        return path
    return None


def load_idx(path: Path, options: LoadOptions) -> ImageDataset:
    """Load an IDX file of images, or `options.split` of a folder that holds MNIST's four files.

    Labels come from the file beside it whose name has `labels` and `idx1` for `images` and
    `idx3`; without such a file the set has none.

    Raises:
        FileNotFoundError: a folder without the images of the split.
        OSError, DataError: as `read_idx`; also images that do not have three dimensions, or
            labels that do not match them.
    """
    if path.is_dir():
        found = find_idx(path, options.split)
        if found is None:
            raise FileNotFoundError(
                f"{path}: no IDX file with the {options.split} images: expected "
                f"{_PREFIX[options.split]}-images-idx3-ubyte or the same with .gz"
            )
        path = found
    images = read_idx(path)
    if images.ndim != 3:
        raise DataError(
            f"{path}: expected images (3 dimensions: count, height, width), "
            f"got {images.ndim} dimensions {list(images.shape)}"
        )
    labels = _read_labels(path, len(images))
    chosen = spread(len(images), options.limit)
    tensor = torch.from_numpy(images[chosen])[:, None]
    return ImageDataset(
        conform(tensor, options),
        None if labels is None else torch.from_numpy(labels[chosen].astype(np.int64)),
        None if labels is None else tuple(str(i) for i in range(int(labels.max()) + 1)),
        str(path),
    )


def _read_labels(images_path: Path, count: int) -> NDArray[np.uint8] | None:
    name = images_path.name.replace("images", "labels").replace("idx3", "idx1")
    if name == images_path.name:
        return None
    plain = name.removesuffix(".gz")
    for candidate in (name, plain, f"{plain}.gz"):
        path = images_path.with_name(candidate)
        if path.is_file():
            labels = read_idx(path)
            if labels.shape != (count,):
                raise DataError(
                    f"{path}: expected {count} labels, one for each image of "
                    f"{images_path.name}, got shape {list(labels.shape)}"
                )
            return labels
    return None
