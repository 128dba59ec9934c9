"""`load`: from whatever names a data set to the images in memory."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

from fastgan.data._checks import did_you_mean
from fastgan.data.archive import load_archive
from fastgan.data.array import load_array
from fastgan.data.dataset import DataError, ImageDataset
from fastgan.data.embedded import load_mnist5k
from fastgan.data.fetch import REMOTES, cache_root, fetch
from fastgan.data.folder import load_folder
from fastgan.data.idx import find_idx, load_idx
from fastgan.data.options import MAX_PIXELS, Layout, LoadOptions, Resize, Split

EMBEDDED = "mnist5k"
_KINDS = "an IDX file, a folder with IDX files or images, a .zip, a .npz or a .npy"


def load(
    source: str | os.PathLike[str],
    *,
    image_size: int | None = None,
    channels: Literal[1, 3] | None = None,
    resize: Resize = "center-crop",
    background: tuple[int, int, int] = (255, 255, 255),
    strict: bool = False,
    limit: int | None = None,
    max_pixels: int = MAX_PIXELS,
    split: Split = "train",
    layout: Layout = "auto",
) -> ImageDataset:
    """Load a data set into memory as uint8 [N, C, H, W].

    Args:
        source: "mnist5k" (embedded); "mnist" or "fashion-mnist" (downloaded when first used,
            see `fastgan.data.fetch`); or the path of an IDX file, a folder with IDX files, a
            folder of images, a .zip of images, a .npz or a .npy. A name wins over a path: write
            "./mnist" for a folder of that name.
        image_size: height and width of the result; None keeps the size of the source.
        channels: 1 (grey) or 3 (RGB); None keeps what the source has.
        resize: "center-crop" (the largest centred square), "squash" (the aspect is lost) or
            "pad" (the whole image, the rest filled with `background`).
        background: RGB, 0 to 255: under transparent pixels, and around padded images.
        strict: raise on a damaged image file; without it such files are skipped with a warning
            and counted in `ImageDataset.skipped`.
        limit: at most so many images, evenly spaced over the source.
        max_pixels: refuse an image file with more pixels than this.
        split: "train" or "test"; other than "train" only for sources that have splits.
        layout: of arrays, where it cannot be told from the shape (see `docs/data.md`).

    Raises:
        TypeError, ValueError: an option of a wrong type or value.
        FileNotFoundError: no such source.
        OSError: the source cannot be read, or not downloaded (`FetchError`).
        DataError: content that cannot be used; the message says what was expected.
    """
    options = LoadOptions(
        image_size, channels, resize, background, strict, limit, max_pixels, split, layout
    )
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"source must be a str or a path, got {type(source).__name__}")
    if not str(source):
        raise ValueError("source must not be empty")
    if source == EMBEDDED:
        return load_mnist5k(options)
    if isinstance(source, str) and source in REMOTES:
        return _load_remote(source, options)
    return _load_path(Path(source).expanduser(), str(source), options)


def _load_remote(name: str, options: LoadOptions) -> ImageDataset:
    folder = cache_root() / name
    if find_idx(folder, options.split) is None:
        fetch(name)
    dataset = load_idx(folder, options)
    if dataset.labels is None:
        raise FileNotFoundError(f"{folder}: the labels of the {options.split} split are missing")
    return replace(dataset, classes=REMOTES[name].classes, name=name)


def _load_path(path: Path, source: str, options: LoadOptions) -> ImageDataset:
    if not path.exists():
        names = (EMBEDDED, *REMOTES)
        raise FileNotFoundError(
            errno.ENOENT,
            f"source {source!r} is neither a path that exists nor one of "
            f"{', '.join(names)}{did_you_mean(source, names)}; a path may be {_KINDS}",
        )
    if path.is_dir():
        if find_idx(path, "train") or find_idx(path, "test"):
            return load_idx(path, options)
        _only_train(path, options)
        return load_folder(path, options)
    if not path.is_file():
        raise DataError(f"{path}: neither a file nor a folder")
    kind = _kind(path)
    if kind == "array":
        return load_array(path, options)
    _only_train(path, options)
    return load_archive(path, options) if kind == "zip" else load_idx(path, options)


def _only_train(path: Path, options: LoadOptions) -> None:
    if options.split != "train":
        raise ValueError(f"{path}: this kind of source has no splits, got split={options.split!r}")


def _kind(path: Path) -> str:
    """Tell the kind of a file by its suffix, else by its first bytes."""
    suffix = path.suffix.lower()
    if suffix in (".npz", ".npy"):
        return "array"
    if suffix == ".zip":
        return "zip"
    with path.open("rb") as stream:
        head = stream.read(4)
    # By name too, so that a file that should be IDX is told what is wrong with it.
    if "-ubyte" in path.name or head[:2] in (b"\0\0", b"\x1f\x8b"):
        return "idx"
    if head == b"PK\x03\x04":
        return "zip"
    raise DataError(f"{path}: unknown kind of file: expected {_KINDS}")
