"""Folders of images, with class subfolders as in torchvision's ImageFolder."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import torch

from fastgan.data.dataset import DataError, ImageDataset, spread
from fastgan.data.image import SUFFIXES, ImageFile, decode_all
from fastgan.data.options import LoadOptions


def load_folder(folder: Path, options: LoadOptions) -> ImageDataset:
    """Load every PNG, JPEG and WebP under `folder`, recursively, sorted by path.

    Where every image lies in a subfolder, the subfolders directly under `folder` are the classes,
    sorted by name. Names that begin with a dot are ignored.

    Raises:
        OSError: a folder or file cannot be read.
        DataError: no image, or what `decode_all` raises.
    """
    names = _find(folder)
    if not names:
        raise DataError(f"{folder}: no image in this folder ({', '.join(SUFFIXES)} are read)")
    files = [ImageFile(str(name), partial(_open, folder / name)) for name in names]
    return assemble(names, files, options, str(folder))


def assemble(
    names: Sequence[PurePosixPath], files: Sequence[ImageFile], options: LoadOptions, source: str
) -> ImageDataset:
    """Decode `files` and label them by the first part of `names` (relative paths, sorted)."""
    class_of, classes = _classes(names, source)
    chosen = spread(len(files), options.limit)
    images, kept = decode_all([files[i] for i in chosen], options, source)
    labels = None
    if classes is not None:
        labels = torch.tensor([class_of[chosen[i]] for i in kept], dtype=torch.int64)
    return ImageDataset(images, labels, classes, source, skipped=len(chosen) - len(kept))


def is_image_name(name: PurePosixPath) -> bool:
    """Say whether a relative path is an image to load: right suffix, nothing hidden."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.parts)
    return not hidden and name.suffix.lower() in SUFFIXES


def _classes(
    names: Sequence[PurePosixPath], source: str
) -> tuple[list[int], tuple[str, ...] | None]:
    nested = [len(name.parts) > 1 for name in names]
    if all(nested):
        classes = tuple(sorted({name.parts[0] for name in names}))
        number = {name: i for i, name in enumerate(classes)}
        return [number[name.parts[0]] for name in names], classes
    if any(nested):
        warnings.warn(
            f"{source}: {nested.count(False)} of {len(nested)} images lie in no subfolder, so the "
            "subfolders are not taken as classes and the set has no labels",
            stacklevel=2,
        )
    return [], None


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
