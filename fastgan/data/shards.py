"""WebDataset shards: tar files in which files of one base name are one sample.

They are read through an index of each shard, made once from its headers: any image can then be read
by itself, which an exact resume needs and a stream does not give. So shards are local files.
"""

from __future__ import annotations

import glob
import io
import os
import tarfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from fastgan.data.array import to_images, to_nchw
from fastgan.data.dataset import MAX_LABEL
from fastgan.data.files import open_regular, reading, regular_files
from fastgan.data.image import SUFFIXES, ImageFile, UndecodableImage
from fastgan.data.listing import MAX_ENTRY_BYTES, Listing
from fastgan.data.npy import read_npy
from fastgan.data.options import LoadOptions
from fastgan.data.source import DataError
from fastgan.data.table import MAX_TABLE_BYTES, TABLE, by_table

_IMAGES = (*SUFFIXES, ".npy")
_LABEL = "cls"
_LABEL_BYTES = 64
_BLOCK = 512

# Name, offset, bytes.
_Place = tuple[str, int, int]


@dataclass
class _Sample:
    """A sample's image and label as places in its shard."""

    key: str
    images: list[_Place] = field(default_factory=list)
    label: _Place | None = None


def find_shards(source: Path, strict: bool = False) -> list[Path]:
    """The shards that `source` names: a .tar, a folder with some, or a pattern such as a-*.tar.

    Of a folder and a pattern, what is no regular file is left out with a warning, or with `strict`
    an error.
    """
    if source.is_dir():
        found = sorted(p for p in source.iterdir() if p.suffix == ".tar")
        return list(regular_files(found, str(source), strict)[0])
    if source.suffix != ".tar":
        return []
    if source.exists():
        return [source]
    found = sorted(map(Path, glob.glob(str(source))))
    return list(regular_files(found, str(source), strict)[0])


def list_shards(paths: Sequence[Path], name: str) -> Listing:
    """List the samples of shards, in their order.

    A sample is the files of one base name (up to the first dot) that follow each other. It has one
    image: .png, .jpg, .jpeg, .webp, or .npy of [C, H, W] or [H, W, C] numbers with any number of
    channels; `.cls` beside it holds its label as a decimal number; without these, a dataset.json of
    StyleGAN's tools in the shard has the labels. Samples without an image are
    left out.

    Raises:
        OSError: a shard cannot be read.
        DataError: not a tar or truncated, a compressed tar, a sample with two images, labels that
            are missing for some samples or are no numbers, or no image.
    """
    files: list[ImageFile] = []
    labels: list[int] = []
    counts = []
    for path in paths:
        samples, table = _samples(path)
        for sample in samples:
            if len(sample.images) > 1:
                both = " and ".join(image[0] for image in sample.images[:2])
                raise DataError(f"{path}: the sample {sample.key!r} has two images: {both}")
            files.append(_file(path, sample))
        own = [_label(path, sample) for sample in samples if sample.label]
        labels += own if own or table is None else _by_table(path, samples, *table)
        counts.append(len(samples))
    if not files:
        raise DataError(f"{name}: no image in these shards ({', '.join(_IMAGES)} are read)")
    if labels and len(labels) != len(files):
        raise DataError(
            f"{name}: {len(labels)} of {len(files)} samples have a label (.{_LABEL}): expected all "
            "or none"
        )
    return Listing(files, labels or None, None, name, tuple(n for n in counts if n))


def _samples(path: Path) -> tuple[list[_Sample], _Place | None]:
    """The samples that have an image, and where the shard's own dataset.json stands."""
    samples, table = [_Sample("")], None
    with open_regular(path) as opened, reading(path, "not an uncompressed tar archive, or damaged"):
        size = os.fstat(opened.fileno()).st_size
        # Uncompressed only: of another, no image could be read by itself.
        with tarfile.open(path, "r:", fileobj=opened) as shard:
            place = -1
            for member in shard:
                if member.offset <= place or member.size < 0:
                    raise DataError(f"{path}: damaged at {member.name!r}: a size below zero")
                place = member.offset
                if not member.isreg():
                    continue
                if member.issparse() or member.offset_data + member.size > size:
                    what = "a sparse file" if member.issparse() else "truncated"
                    raise DataError(f"{path}: {what} in {member.name!r}")
                if member.name.removeprefix("./") == TABLE:
                    table = _place(member)
                _add(samples, member)
            _check_end(path, os.pread(opened.fileno(), _BLOCK, shard.offset), shard.offset)
    return [sample for sample in samples if sample.images], table


def _check_end(path: Path, block: bytes, offset: int) -> None:
    """Raise DataError unless the members end with tar's mark; warn where there is nothing at all.

    tarfile takes a header that it cannot read for the end, and what follows would be lost unseen.
    """
    if not block:
        warnings.warn(
            f"{path}: ends without the mark of a tar's end: it may be truncated", stacklevel=2
        )
    elif block != bytes(_BLOCK):
        raise DataError(f"{path}: damaged or truncated: no tar header at byte {offset}")


def _add(samples: list[_Sample], member: tarfile.TarInfo) -> None:
    """Put a member to the last sample, or to a new one where its name is another."""
    folder, _, base = member.name.rpartition("/")
    stem, _, kind = base.partition(".")
    key = f"{folder}/{stem}"
    if key != samples[-1].key:
        samples.append(_Sample(key))
    if kind == _LABEL:
        samples[-1].label = _place(member)
    elif stem and member.name.lower().endswith(_IMAGES):
        samples[-1].images.append(_place(member))


def _place(member: tarfile.TarInfo) -> _Place:
    return member.name, member.offset_data, member.size


def _by_table(path: Path, samples: list[_Sample], name: str, offset: int, size: int) -> list[int]:
    names = [sample.images[0][0].removeprefix("./") for sample in samples]
    stream = _open(path, offset, min(size, MAX_TABLE_BYTES + 1))
    found = by_table(stream, names, f"{path}: {name}")
    return (found and found[0]) or []


def _file(path: Path, sample: _Sample) -> ImageFile:
    name, offset, size = sample.images[0]
    if size > MAX_ENTRY_BYTES:
        raise DataError(f"{path}: {name!r} has {size} bytes, more than {MAX_ENTRY_BYTES}: refused")
    decode = _decode_array if name.lower().endswith(".npy") else None
    return ImageFile(f"{path.name}/{name}", partial(_open, path, offset, size), str(size), decode)


def _open(path: Path, offset: int, size: int) -> BinaryIO:
    with open_regular(path) as shard:
        return io.BytesIO(os.pread(shard.fileno(), size, offset))


def _label(path: Path, sample: _Sample) -> int:
    assert sample.label is not None
    name, offset, size = sample.label
    text = _open(path, offset, min(size, _LABEL_BYTES)).read().strip()
    if text.isdigit() and size <= _LABEL_BYTES and int(text) <= MAX_LABEL:
        return int(text)
    raise DataError(
        f"{path}: {name!r} holds no class: expected a whole number from 0 to {MAX_LABEL}, "
        f"got {text[:20]!r}"
    )


def _decode_array(stream: BinaryIO, name: str, options: LoadOptions) -> Tensor:
    """uint8 [C, H, W] of a .npy file."""
    try:
        with reading(Path(name), "damaged NumPy file"):
            array = read_npy(stream, stream.seek(0, io.SEEK_END) - stream.seek(0))
    except DataError as error:
        raise UndecodableImage(str(error)) from error
    try:
        images = to_nchw(array, options.layout)
        if len(images) != 1:
            shape = list(array.shape)
            raise DataError(
                f"an array of shape {shape} is {len(images)} images, expected one: pass "
                "layout='HWC' or 'CHW'"
            )
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    try:
        return to_images(images)[0]
    except DataError as error:
        raise UndecodableImage(f"{name}: {error}") from error
