"""Zip archives of images, read in place: nothing is ever unpacked to disk."""

from __future__ import annotations

import io
import os
import re
import zipfile
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from fastgan.data.files import read_up_to, reading
from fastgan.data.image import ImageFile, UndecodableImage
from fastgan.data.listing import MAX_ENTRY_BYTES, Listing, by_folder, images_among, is_image_name
from fastgan.data.source import DataError
from fastgan.data.table import TABLE, by_table

_ENCRYPTED = 0x1


def list_archive(path: Path) -> Listing:
    """List every PNG, JPEG and WebP in a zip, sorted by name; labels as in `list_folder`.

    A single folder that wraps the whole archive is not a class; a dataset.json may lie in it. The
    archive stays open as long as the listing lives; every process opens it for itself.

    Raises:
        OSError: the file cannot be read.
        DataError: not a zip, a name that points outside, encryption, sizes over the limits, no
            image, or a dataset.json without a class for each.
    """
    archive = _Archive(path)
    entries = archive.opened().infolist()
    for entry in entries:
        _check_entry(entry, path)
    present = {
        PurePosixPath(_posix(e.filename)): e for e in entries if not e.filename.endswith("/")
    }
    names = images_among(present, str(path), "archive")
    images = {name: present[name] for name in names}
    files = [
        ImageFile(
            str(name),
            partial(archive.read, images[name]),
            f"{images[name].file_size} {images[name].CRC:08x}",
        )
        for name in names
    ]
    unpacked = sum(entry.file_size for entry in images.values())
    wraps = _wraps(names)
    tables = (
        _by_table(archive, present[wrap / TABLE], _below(names, wrap))
        for wrap in wraps
        if wrap / TABLE in present
    )
    labels, classes = next(tables, None) or by_folder(_below(names, wraps[-1]), str(path))
    return Listing(files, labels, classes, str(path), unpacked=unpacked)


def _check_entry(entry: zipfile.ZipInfo, path: Path) -> None:
    name = _posix(entry.filename)
    if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in name.split("/"):
        raise DataError(f"{path}: the entry {entry.filename!r} points outside the archive: refused")
    if entry.flag_bits & _ENCRYPTED:
        raise DataError(f"{path}: the entry {entry.filename!r} is encrypted: cannot be read")
    read = is_image_name(PurePosixPath(name)) or PurePosixPath(name).name == TABLE
    if read and entry.file_size > MAX_ENTRY_BYTES:
        raise DataError(
            f"{path}: the entry {entry.filename!r} unpacks to {entry.file_size} bytes, more than "
            f"{MAX_ENTRY_BYTES}: refused as a zip bomb"
        )


def _posix(name: str) -> str:
    return name.replace("\\", "/")


def _wraps(names: list[PurePosixPath]) -> list[PurePosixPath]:
    """The folders that hold all of `names`, from the root on."""
    wraps = [PurePosixPath()]
    while True:
        depth = len(wraps[-1].parts)
        if len({name.parts[depth] for name in names}) > 1 or any(
            len(name.parts) == depth + 1 for name in names
        ):
            return wraps
        wraps.append(wraps[-1] / names[0].parts[depth])


def _below(names: list[PurePosixPath], wrap: PurePosixPath) -> list[PurePosixPath]:
    return [PurePosixPath(*name.parts[len(wrap.parts) :]) for name in names]


def _by_table(
    archive: _Archive, entry: zipfile.ZipInfo, names: list[PurePosixPath]
) -> tuple[list[int] | None, None] | None:
    where = f"{archive.path}: {entry.filename}"
    with archive.read(entry) as stream:
        return by_table(stream, list(map(str, names)), where)


class _Archive:
    """A zip that is opened once a process: an open file's place is shared with forked processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: tuple[int, zipfile.ZipFile] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_open": None}

    def opened(self) -> zipfile.ZipFile:
        if self._open is None or self._open[0] != os.getpid():
            with reading(self.path, "not a zip archive, or damaged"):
                self._open = os.getpid(), zipfile.ZipFile(self.path)
        return self._open[1]

    def read(self, entry: zipfile.ZipInfo) -> BinaryIO:
        """Unpack one entry into memory, at most the size that `_check_entry` has seen."""
        archive = self.opened()
        try:
            with reading(self.path, f"{entry.filename!r}"), archive.open(entry) as member:
                content = read_up_to(member, entry.file_size)  # type: ignore[arg-type]
                member.read(1)  # nothing, at the end, where zipfile compares the checksum
                return io.BytesIO(content)
        except DataError as error:
            if isinstance(error.__cause__, NotImplementedError):  # a compression, of all of them
                raise
            raise UndecodableImage(str(error)) from error
