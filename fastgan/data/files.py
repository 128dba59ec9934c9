"""Opening what a source names: regular files alone, so that no pipe or device is waited for."""

from __future__ import annotations

import errno
import os
import stat
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from fastgan.data.dataset import DataError

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
