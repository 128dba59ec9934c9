"""Image files by name: what a folder, a zip and a set of shards have in common."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import torch

from fastgan.data.dataset import ImageDataset, spread
from fastgan.data.image import SUFFIXES, ImageFile, decode_all
from fastgan.data.options import MAX_UNPACKED_BYTES, LoadOptions, Split
from fastgan.data.source import DataError

# Pictures, by their names, of formats that are not read.
UNREAD = (
    *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".psd", ".svg", ".eps"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),
)
# One image file. The largest lossless photographs stay well below this.
MAX_ENTRY_BYTES = 512 * 1024**2


@dataclass(frozen=True)
class Listing:
    """Images that can be opened when their turn comes, in a fixed order.

    Attributes:
        labels: of each file, or None.
        shards: how many of the files lie in each shard, if they do.
        unpacked: bytes that an archive's files have together, 0 where nothing is packed.
        left_out: names of those that are no files to be read.
    """

    files: Sequence[ImageFile]
    labels: Sequence[int] | None
    classes: tuple[str, ...] | None
    name: str
    shards: tuple[int, ...] | None = None
    unpacked: int = 0
    left_out: tuple[str, ...] = ()

    def limited(self, limit: int | None) -> Listing:
        """At most `limit` of the files, evenly spaced."""
        return self._of(spread(len(self.files), limit))

    def part(self, held_out: float, split: Split) -> Listing:
        """A share of the files, evenly spaced, as the split "test", or all others.

        DataError where no file is in it.
        """
        test = split == "test"
        numbers = range(len(self.files))
        chosen = [i for i in numbers if (int((i + 1) * held_out) > int(i * held_out)) is test]
        if not chosen:
            raise DataError(
                f"{self.name}: of {len(self.files)} images none is in the split {split} with "
                f"held_out={held_out}"
            )
        return self._of(chosen)

    def _of(self, chosen: list[int]) -> Listing:
        if len(chosen) == len(self.files):
            return self
        labels = None if self.labels is None else [self.labels[i] for i in chosen]
        shards = None if self.shards is None else _counts(self.shards, chosen)
        files = [self.files[i] for i in chosen]
        return replace(self, files=files, labels=labels, shards=shards)

    def fingerprint(self, options: LoadOptions) -> str:
        """SHA-256 over names, marks (sizes or checksums) and labels, and what becomes of them."""
        digest = hashlib.sha256(b"fastgan.Listing.1")
        digest.update(repr(options).encode())
        for file in self.files:
            # A name of other bytes than UTF-8 stands in a str as surrogates.
            digest.update(f"{file.name}\0{file.mark}\n".encode(errors="surrogateescape"))
        digest.update(repr(self.labels and list(self.labels)).encode())
        return digest.hexdigest()


def load_listing(listing: Listing, options: LoadOptions) -> ImageDataset:
    """Decode every file of `listing`, at most `options.limit`, into memory.

    Raises:
        DataError: the files unpack to more than `MAX_UNPACKED_BYTES`, or what `decode_all` raises.
    """
    if listing.unpacked > MAX_UNPACKED_BYTES:
        raise DataError(
            f"{listing.name}: its images unpack to {listing.unpacked} bytes, more than "
            f"{MAX_UNPACKED_BYTES}: refused as a zip bomb"
        )
    listing = listing.limited(options.limit)
    images, kept, grey = decode_all(listing.files, options, listing.name)
    labels = None
    if listing.labels is not None:
        labels = torch.tensor([listing.labels[i] for i in kept], dtype=torch.int64)
    skipped = len(listing.files) - len(kept) + len(listing.left_out)
    told = f"{listing.name}: {grey} of {len(kept)} images are in colour and become grey"
    return ImageDataset(
        images, labels, listing.classes, listing.name, skipped, notes=(told,) if grey else ()
    )


def by_folder(
    names: Sequence[PurePosixPath], source: str
) -> tuple[list[int] | None, tuple[str, ...] | None]:
    """Label files by the first part of `names` (relative paths), if each has a folder."""
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
    return None, None


def images_among(names: Iterable[PurePosixPath], source: str, kind: str) -> list[PurePosixPath]:
    """Those that are to be loaded, sorted; a warning counts pictures of formats that are not read.

    DataError where none is to be loaded.
    """
    present = list(names)
    unread = Counter(n.suffix.lower() for n in present if n.suffix.lower() in UNREAD)
    told = ", ".join(f"{count} {suffix}" for suffix, count in sorted(unread.items()))
    told = (
        f"left out are pictures of formats that are not read: {told}; convert them to JPEG or PNG"
    )
    found = sorted(name for name in present if is_image_name(name))
    if not found:
        hint = f"; {told}" if unread else ""
        raise DataError(f"{source}: no image in this {kind} ({', '.join(SUFFIXES)} are read){hint}")
    if unread:
        warnings.warn(f"{source}: {told}", stacklevel=2)
    return found


def is_image_name(name: PurePosixPath) -> bool:
    """Say whether a relative path is an image to load: right suffix, nothing hidden."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.parts)
    return not hidden and name.suffix.lower() in SUFFIXES


def _counts(sizes: Sequence[int], chosen: Sequence[int]) -> tuple[int, ...]:
    """How many of `chosen` lie in each of consecutive groups of `sizes`; empty groups are left out.

    `chosen` is in order.
    """
    ends = torch.tensor(sizes).cumsum(0)
    group = torch.bucketize(torch.tensor(chosen), ends, right=True)
    return tuple(torch.bincount(group)[torch.bincount(group) > 0].tolist())
