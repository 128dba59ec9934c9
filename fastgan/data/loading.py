"""`load`: from whatever names a data set to the images in memory."""

from __future__ import annotations

import errno
import logging
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch

from fastgan.checks import check_choice, did_you_mean, paths_beside
from fastgan.data.archive import list_archive
from fastgan.data.array import is_npy, load_array
from fastgan.data.dataset import ImageDataset
from fastgan.data.embedded import load_mnist5k
from fastgan.data.fetch import REMOTES, cache_root, fetch
from fastgan.data.files import expanded, open_regular
from fastgan.data.folder import list_folder
from fastgan.data.idx import find_idx, load_idx
from fastgan.data.image import SUFFIXES
from fastgan.data.limits import resident_bytes
from fastgan.data.listing import Listing, load_listing
from fastgan.data.options import MAX_PIXELS, Layout, Loading, LoadOptions, Resize, Split
from fastgan.data.shards import find_shards, list_shards
from fastgan.data.source import DataError
from fastgan.data.streaming import ImageStream, stream_array, stream_listing

_LOG = logging.getLogger(__name__)
EMBEDDED = "mnist5k"
_KINDS = (
    "an IDX file, a folder with IDX files, images or shards, a .zip, a .npz, a .npy, a .tar or a "
    "pattern of shards such as train-*.tar"
)


def load(
    source: str | os.PathLike[str],
    *,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    resize: Resize = "center-crop",
    background: tuple[int, int, int] = (255, 255, 255),
    strict: bool = False,
    limit: int | None = None,
    max_pixels: int = MAX_PIXELS,
    split: Split = "train",
    layout: Layout = "auto",
    held_out: float = 0,
) -> ImageDataset:
    """Load a data set into memory as [N, C, H, W]: uint8, uint16 of 16-bit files, or floats as an
    array holds them.

    Args:
        source: "mnist5k" (embedded); "mnist" or "fashion-mnist" (downloaded when first used,
            see `fastgan.data.fetch`); or the path of an IDX file, a folder with IDX files, a
            folder of images, a .zip of images, a .npz, a .npy, or WebDataset shards (a .tar, a
            folder of them, or a pattern such as "train-*.tar"). A name wins over a path: write
            "./mnist" for a folder of that name.
        image_size: side of the result, or (height, width); None keeps the size of the source.
        channels: 1 (grey) or 3 (RGB); None keeps what the source has, and so does another number,
            which arrays must then have.
        resize: "center-crop" (the largest centred part of that aspect), "squash" (the aspect is
            lost) or "pad" (the whole image, the rest filled with `background`).
        background: RGB, 0 to 255: under transparent pixels, and around padded images.
        strict: raise on a damaged image file; without it such files are skipped with a warning
            and counted in `ImageDataset.skipped`.
        limit: at most so many images, evenly spaced over the source.
        max_pixels: refuse an image file with more pixels than this.
        split: "train" or "test"; other than "train" only for sources that have splits.
        layout: of arrays, where it cannot be told from the shape (see `docs/data.md`).
        held_out: of a folder, a zip or shards: this share of the images, evenly spaced in the
            order of their names, is the split "test", and the others are "train". 0 leaves them
            without splits.

    Raises:
        TypeError, ValueError: an option of a wrong type or value.
        FileNotFoundError: no such source.
        OSError: the source cannot be read, or not downloaded (`FetchError`).
        DataError: content that cannot be used; the message says what was expected.
    """
    options = LoadOptions(
        image_size, channels, resize, background, strict, limit, max_pixels, split, layout, held_out
    )
    _check_source(source)
    found = find_listing(source, options)
    if source == EMBEDDED:
        return load_mnist5k(options)
    if isinstance(source, str) and source in REMOTES:
        return _load_remote(source, options)
    if isinstance(found, Listing):
        return load_listing(found, options)
    path = expanded(source)
    return load_idx(path, options) if path.is_dir() else _load_file(path, options)


def stream(
    source: str | os.PathLike[str],
    *,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    resize: Resize = "center-crop",
    background: tuple[int, int, int] = (255, 255, 255),
    strict: bool = False,
    limit: int | None = None,
    max_pixels: int = MAX_PIXELS,
    layout: Layout = "auto",
    held_out: float = 0,
    workers: int = 0,
) -> ImageStream:
    """Open a data set that stays on disk; `StreamLoader` and `Trainer` take what this returns.

    Args:
        source: a folder or a .zip of images, WebDataset shards (see `load`), or a .npy.
        workers: threads that read and decode; 0 is one a CPU core, at most 16.

    The other arguments and the errors are those of `load`; ValueError for a source that can only be
    held in memory.
    """
    _check_source(source)
    options = LoadOptions(
        image_size, channels, resize, background, strict, limit, max_pixels, "train", layout,
        held_out,
    )  # fmt: skip
    found = find_listing(source, options)
    if isinstance(found, Listing):
        return stream_listing(found, options, workers)
    if found is not None:
        return stream_array(found, options, workers)
    raise ValueError(
        f"source {str(source)!r} cannot be streamed: expected a folder or a .zip of images, a .npy "
        "or shards (.tar); loading=resident holds it in memory"
    )


def open_images(
    source: str | os.PathLike[str],
    *,
    loading: Loading = "auto",
    workers: int = 0,
    device: torch.device | str = "cpu",
    **options: Any,
) -> ImageDataset | ImageStream:
    """`load` or `stream`, as `loading` says.

    Args:
        loading: "resident" or "stream"; "auto" streams a source that can be streamed if it would
            take more than `resident_bytes(device)` in memory.
        device: where the run computes, and a set in memory lives.
        workers: see `stream`; without meaning for a set in memory.
        **options: of `load`.

    Raises:
        ValueError: another `loading`; whatever else the two raise.
    """
    check_choice("loading", loading, get_args(Loading))
    if loading == "stream":
        return stream(source, workers=workers, **options)
    if loading == "resident":
        return load(source, **options)
    _check_source(source)
    asked = LoadOptions(**options)
    found = find_listing(source, asked)
    if isinstance(found, Listing):
        opened = stream_listing(found, asked, workers)
        return opened if _is_large(opened, device) else load_listing(found, asked)
    if isinstance(found, Path):
        opened = stream_array(found, asked, workers)
        return opened if _is_large(opened, device) else load_array(found, asked)
    return load(source, **options)


def _is_large(opened: ImageStream, device: torch.device | str) -> bool:
    size, room = (
        math.prod(opened.shape) * opened.dtype.itemsize,
        resident_bytes(torch.device(device)),
    )
    how = "streamed" if size > room else "held in memory"
    _LOG.debug("%s: %d MB, %s (up to %d MB are held)", opened.name, size >> 20, how, room >> 20)
    return size > room


def find_listing(source: str | os.PathLike[str], options: LoadOptions) -> Listing | Path | None:
    """The files of a source of many, the path of a .npy, or None for any other source."""
    found = _found(source, options)
    if not options.held_out:
        return found
    if isinstance(found, Listing):
        return found.part(options.held_out, options.split)
    raise ValueError(
        f"held_out is for a folder, a zip or shards of images, got source {str(source)!r}"
    )


def _found(source: str | os.PathLike[str], options: LoadOptions) -> Listing | Path | None:
    if isinstance(source, str) and source in (EMBEDDED, *REMOTES):
        return None
    path = expanded(source)
    shards = find_shards(path, options.strict)
    if not shards and not path.exists():
        raise _no_such(str(source))
    if not shards and path.is_dir() and (find_idx(path, "train") or find_idx(path, "test")):
        return None
    kind = "files" if shards or path.is_dir() else _kind(path)
    if kind == "array":
        return path if is_npy(path) and options.split == "train" else None
    if kind == "idx":
        return None
    if options.split != "train" and not options.held_out:
        raise ValueError(f"{path}: this kind of source has no splits, got split={options.split!r}")
    if shards:
        return list_shards(shards, str(source))
    return list_archive(path) if kind == "zip" else list_folder(path, options.strict)


def _check_source(source: str | os.PathLike[str]) -> None:
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"source must be a str or a path, got {type(source).__name__}")
    if not str(source):
        raise ValueError("source must not be empty")


def _no_such(source: str) -> FileNotFoundError:
    names, path = (EMBEDDED, *REMOTES), Path(source)
    near = did_you_mean(source, names) or did_you_mean(path, map(str, paths_beside(path)))
    return FileNotFoundError(
        errno.ENOENT,
        f"source {source!r} is neither a path that exists nor one of "
        f"{', '.join(names)}{near}; a path may be {_KINDS}",
    )


def _load_remote(name: str, options: LoadOptions) -> ImageDataset:
    folder = cache_root() / name
    if find_idx(folder, options.split) is None:
        fetch(name)
    dataset = load_idx(folder, options)
    if dataset.labels is None:
        raise FileNotFoundError(f"{folder}: the labels of the {options.split} split are missing")
    return replace(dataset, classes=REMOTES[name].classes, name=name)


def _load_file(path: Path, options: LoadOptions) -> ImageDataset:
    if _kind(path) == "array":
        return load_array(path, options)
    if options.split != "train":
        raise ValueError(f"{path}: this kind of source has no splits, got split={options.split!r}")
    return load_idx(path, options)


def _kind(path: Path) -> str:
    """Tell the kind of a file by its suffix, else by its first bytes."""
    if not path.is_file():
        raise DataError(f"{path}: neither a file nor a folder")
    suffix = path.suffix.lower()
    if suffix in (".npz", ".npy"):
        return "array"
    if suffix == ".zip":
        return "zip"
    if suffix in SUFFIXES:
        raise DataError(f"{path}: one image alone: give the folder that holds all of them")
    with open_regular(path) as stream:
        head = stream.read(4)
    # By name too, so that a file that should be IDX is told what is wrong with it.
    # Films and icons begin with zeros, too; of IDX the third byte is a type.
    typed = head[:2] == b"\0\0" and b"\x08" <= head[2:3] <= b"\x0e"
    if "-ubyte" in path.name or typed or head[:2] == b"\x1f\x8b":
        return "idx"
    if head == b"PK\x03\x04":
        return "zip"
    raise DataError(f"{path}: unknown kind of file: expected {_KINDS}")
