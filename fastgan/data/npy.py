"""The .npy format: numbers alone, and no more memory than the bytes that are really there.

A header says what follows: dtype, order, shape. Here it is checked against the bytes that there are
before anything is allocated, and a dtype that holds Python objects is refused unread.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fastgan.data.files import open_regular, read_up_to, reading
from fastgan.data.source import DataError

MAGIC = b"\x93NUMPY"
_MAX_HEADER_BYTES = 16 * 1024  # NumPy itself refuses headers of more than 10,000 characters
_DIMENSIONS = 32


def read_npy(stream: BinaryIO, size: int) -> NDArray[Any]:
    """Read the array that begins where `stream` stands; `size` bytes are said to follow.

    Raises:
        DataError: no .npy, another dtype than bool, integers and floating point, or truncated.
        Exception: what NumPy and `stream` raise on damaged bytes; see `reading`.
    """
    head = read_up_to(stream, min(size, _MAX_HEADER_BYTES))
    dtype, shape, fortran, offset = _header(bytes(head), size)
    count = math.prod(shape) * dtype.itemsize
    data = head[offset : offset + count]
    data += read_up_to(stream, count - len(data))
    if len(data) < count:
        raise DataError(f"truncated NumPy file: an array of shape {list(shape)} has {count} bytes")
    # One byte more, that a zip compares its checksum where the array ends with its member.
    stream.read(1)
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def map_npy(path: Path) -> NDArray[Any]:
    """Map a .npy file into memory, to be read as it is used.

    Raises:
        OSError: the file cannot be read.
        DataError: as `read_npy`; the message names the file.
    """
    with open_regular(path) as stream, reading(path, "damaged NumPy file"):
        size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        dtype, shape, fortran, offset = _header(stream.read(_MAX_HEADER_BYTES), size)
        if 0 in shape:  # nothing to map
            return np.empty(shape, dtype)
        order: Any = "F" if fortran else "C"
        return np.memmap(stream, dtype, "r", offset, shape, order)


def _header(head: bytes, size: int) -> tuple[np.dtype[Any], tuple[int, ...], bool, int]:
    """Return dtype, shape, whether Fortran order, and where the data begins."""
    stream = io.BytesIO(head)
    if not head.startswith(MAGIC):
        raise DataError(f"no .npy array: it begins with {head[:6]!r}")
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise DataError(f"the .npy format {version[0]}.{version[1]} is not read, only 1.0 and 2.0")
    if dtype.hasobject:
        raise DataError("pickled Python objects are never loaded")
    if dtype.kind not in "buif":
        raise DataError(f"an array must hold numbers, got dtype {dtype}")
    if len(shape) > _DIMENSIONS or any(length < 0 for length in shape):
        raise DataError(f"the header says shape {str(list(shape))[:99]}")
    offset = stream.tell()
    if math.prod(shape) * dtype.itemsize > size - offset:
        raise DataError(
            f"truncated NumPy file: the header says shape {list(shape)} of {dtype}, only "
            f"{size - offset} bytes follow"
        )
    return dtype, shape, fortran, offset
