"""Folders of images, with class subfolders as in torchvision's ImageFolder."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from fastgan.data.dataset import DataError
from fastgan.data.image import SUFFIXES, ImageFile
from fastgan.data.listing import Listing, by_folder, is_image_name


def list_folder(folder: Path) -> Listing:
    """List every PNG, JPEG and WebP under `folder`, recursively, sorted by path.

    Where every image lies in a subfolder, the subfolders directly under `folder` are the classes,
    sorted by name. Names that begin with a dot are ignored.

    Raises:
        OSError: a folder cannot be read.
        DataError: no image.
    """
    names = _find(folder)
    if not names:
        raise DataError(f"{folder}: no image in this folder ({', '.join(SUFFIXES)} are read)")
    files = [
        ImageFile(str(name), partial(_open, folder / name), str((folder / name).stat().st_size))
        for name in names
    ]
    return Listing(files, *by_folder(names, str(folder)), str(folder))


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
    return sorted(name for name in found if is_image_name(name))


def _open(path: Path) -> BinaryIO:
    return path.open("rb")
