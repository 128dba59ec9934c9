"""Folders of images, with class subfolders as in torchvision's ImageFolder."""

from __future__ import annotations

import io
import os
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from fastgan.data.files import open_regular, read_up_to, regular_files
from fastgan.data.image import ImageFile, UndecodableImage
from fastgan.data.listing import MAX_ENTRY_BYTES, Listing, by_folder, images_among
from fastgan.data.source import DataError
from fastgan.data.table import TABLE, by_table


def list_folder(folder: Path, strict: bool = False) -> Listing:
    """List every image under `folder`, recursively, sorted by path.

    A dataset.json of StyleGAN's tools has the labels. Without it, where every image lies in a
    subfolder, the subfolders directly under `folder` are the classes, sorted by name. Names that
    begin with a dot are ignored. Pipes, devices and links to nothing are left out with a warning;
    with `strict` they are errors.

    Raises:
        OSError: a folder cannot be read.
        DataError: no image, or a dataset.json without a class for each.
    """
    found = {folder / name: name for name in images_among(_find(folder), str(folder), "folder")}
    sizes, left_out = regular_files(found, str(folder), strict)
    names = [found[path] for path in sizes]
    if not names:
        raise DataError(f"{folder}: no image in this folder that is a file")
    files = [
        ImageFile(str(found[path]), partial(_open, path), str(size)) for path, size in sizes.items()
    ]
    missing = tuple(str(found[path]) for path in left_out)
    labels, classes = _by_table(folder / TABLE, names) or by_folder(names, str(folder))
    return Listing(files, labels, classes, str(folder), left_out=missing)


def _by_table(path: Path, names: list[PurePosixPath]) -> tuple[list[int] | None, None] | None:
    if not path.is_file():
        return None
    with open_regular(path) as stream:
        return by_table(stream, list(map(str, names)), str(path))


def _find(folder: Path) -> list[PurePosixPath]:
    def fail(error: OSError) -> None:
        raise error

    found = []
    visited = set()
    # Links are followed, as people link their data sets together; a loop of links is not.
    for current, subfolders, names in os.walk(folder, onerror=fail, followlinks=True):
        here = os.stat(current)
        if (here.st_dev, here.st_ino) in visited:
            subfolders.clear()
            continue
        visited.add((here.st_dev, here.st_ino))
        subfolders.sort()
        relative = PurePosixPath(Path(current).relative_to(folder).as_posix())
        found += [relative / name for name in names]
    return found


def _open(path: Path) -> BinaryIO:
    """The file's bytes: of a file itself, Pillow would allocate what a damaged header asks for."""
    with open_regular(path) as stream:
        content = read_up_to(stream, MAX_ENTRY_BYTES + 1)
    if len(content) > MAX_ENTRY_BYTES:
        raise UndecodableImage(f"{path}: more than {MAX_ENTRY_BYTES} bytes: refused")
    return io.BytesIO(content)
