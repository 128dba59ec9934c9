"""Opening and reading what a source names, whatever stands there.

Regular files alone are opened, so that no pipe or device is waited for; what parsers raise on
damaged content becomes an error that names the file; and no more memory is taken than bytes came.
"""

from __future__ import annotations

import errno
import os
import stat
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fastgan.data.source import DataError

_BLOCK = 1 << 20
_NOTHING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def open_regular(path: Path) -> BinaryIO:
    """Open a file, through links, to read bytes.

    Raises:
        OSError: it cannot be opened.
        DataError: a pipe, a socket or a device, which is not waited for.
    """
    opened = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 - the caller closes it
    kind = _kind(os.fstat(opened.fileno()).st_mode)
    if kind is not None:
        opened.close()
        raise DataError(f"{path}: {kind}, not a regular file")
    return opened


@contextmanager
def reading(path: Path, failure: str) -> Iterator[None]:
    """Turn whatever a parser raises on the content of `path` into a `DataError` that names it.

    Of hostile bytes, zipfile, tarfile and NumPy raise also struct.error, RuntimeError, KeyError,
    MemoryError and more. The system's own failures stay an OSError, with the file's name.

    Args:
        failure: what the message says, such as "damaged NumPy file".
    """
    try:
        yield
    except DataError as error:
        named = str(error).startswith(str(path))
        raise (error if named else DataError(f"{path}: {error}")) from error.__cause__
    except OSError as error:
        # The system's carry a number; of a place in the file that cannot be, it is EINVAL.
        if error.errno not in (None, errno.EINVAL):
            error.filename = error.filename or str(path)
            raise
        raise DataError(f"{path}: {failure}: {error}") from error
    except Exception as error:
        raise DataError(f"{path}: {failure}: {error or type(error).__name__}") from error


def read_up_to(stream: BinaryIO, count: int) -> bytearray:
    """Read `count` bytes, or what there is; memory grows with what comes, not with `count`."""
    data = bytearray()
    while len(data) < count:
        block = stream.read(min(_BLOCK, count - len(data)))
        if not block:
            break
        data += block
    return data


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path with ~ and ~user replaced; FileNotFoundError where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise FileNotFoundError(errno.ENOENT, f"{error}", str(path)) from error


def regular_files(
    paths: Iterable[Path], source: str, strict: bool
) -> tuple[dict[Path, int], list[Path]]:
    """Return the bytes of each regular file among `paths`, and the paths that lead to none.

    One warning tells of these; with `strict` they are errors.

    Raises:
        OSError: a file cannot be looked at; with `strict`, a link that leads nowhere.
        DataError: with `strict`, a pipe, a socket or a device.
    """
    sizes, others = {}, {}
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            if strict or error.errno not in _NOTHING:
                raise
            others[path] = "a link to nothing"
            continue
        kind = _kind(status.st_mode)
        if kind is None:
            sizes[path] = status.st_size
        elif strict:
            raise DataError(f"{path}: {kind}, not a regular file")
        else:
            others[path] = kind
    if others:
        path, kind = next(iter(others.items()))
        warnings.warn(
            f"{source}: left out {len(others)} that are no regular files; the first: {path} "
            f"is {kind}",
            stacklevel=2,
        )
    return sizes, list(others)


def _without_waiting(path: str, flags: int) -> int:
    # Opening a pipe waits for a writer otherwise.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _kind(mode: int) -> str | None:
    """None of a regular file, else what it is in words."""
    if stat.S_ISREG(mode):
        return None
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"
