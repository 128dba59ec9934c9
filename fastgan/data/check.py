"""What a data set holds, before anyone trains on it: `fastgan data check`."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

import torch
from PIL import Image
from torch import Tensor

from fastgan.data.dataset import ImageDataset
from fastgan.data.files import expanded
from fastgan.data.image import ImageFile, UndecodableImage, decode
from fastgan.data.listing import MAX_ENTRY_BYTES, Listing, is_image_name
from fastgan.data.loading import find_listing, load
from fastgan.data.options import MAX_PIXELS, LoadOptions
from fastgan.system import tell

# Beyond it a class is rare enough to be told of.
_IMBALANCE = 3.0
_SHOWN = 8


@dataclass
class DataCheck:
    """What `check_data` finds.

    Attributes:
        images: that can be read.
        sizes: how many images have which (width, height).
        modes: how many files have which format and Pillow mode, such as "PNG RGB".
        kinds: how many images have which channels and dtype, as `load` gives them.
        unreadable: file and reason, of images that would be skipped.
        duplicates: groups of images whose pixels are the same.
        crossing: of these groups, how many lie in more than one class.
        classes: images of each class that can be read, by name; empty without labels.
        ignored: how many other files have which suffix.
    """

    name: str
    images: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[tuple[int, str]] = field(default_factory=Counter)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    duplicates: list[list[str]] = field(default_factory=list)
    crossing: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    ignored: Counter[str] = field(default_factory=Counter)

    def text(self) -> str:
        """For a person, a finding a line; what to do about it stands behind."""
        lines = [f"{self.name}: {self.images} images can be read"]
        lines += _some("sizes", ((f"{w}x{h}", n) for (w, h), n in self.sizes.most_common()))
        if len(self.sizes) > 1:
            lines.append("  they differ: --image-size makes them one (--resize tells how)")
        lines += _some("files", self.modes.most_common())
        kinds = (
            (f"{c} channel{'s' if c != 1 else ''} of {dtype}", n)
            for (c, dtype), n in self.kinds.most_common()
        )
        lines += _some("read as", kinds)
        lines += self._classes()
        if self.unreadable:
            lines.append(f"unreadable: {len(self.unreadable)}, which training skips and counts")
            lines += [f"  {file}: {why}" for file, why in self.unreadable[:_SHOWN]]
            if any(_is_jpeg(file) and "max_pixels" in why for file, why in self.unreadable):
                lines.append("  where images are resized, a JPEG of so many pixels is read reduced")
        if self.duplicates:
            again = sum(len(group) - 1 for group in self.duplicates)
            across = f", {self.crossing} of them in two classes" if self.crossing else ""
            lines.append(f"duplicates: {again} in {len(self.duplicates)} groups{across}")
            lines += [f"  {' = '.join(group[:4])}" for group in self.duplicates[:_SHOWN]]
        lines += _some("not read, by suffix", self.ignored.most_common())
        return "\n".join(lines)

    def _classes(self) -> list[str]:
        if not self.classes:
            return ["classes: none"]
        counts = sorted(self.classes.items(), key=lambda item: -item[1])
        lines = _some("classes", counts)
        most, least = counts[0][1], counts[-1][1]
        if most > _IMBALANCE * least:
            of = f"{most / least:.0f} times as many" if least else "images and others none"
            lines.append(f"  imbalanced, the largest has {of}: --balance 1 draws all alike")
        return lines


def check_data(source: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> DataCheck:
    """Read every image of a data set once, and say what is there.

    Args:
        source: as `fastgan.data.load` takes it.
        max_pixels: files with more are counted as unreadable.

    Raises:
        FileNotFoundError: no such source.
        OSError: it cannot be read.
        DataError: it has no image at all, or is an array that cannot be used.
    """
    options = LoadOptions(max_pixels=max_pixels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they tell stands in the result
        listing = find_listing(source, options)
        if isinstance(listing, Listing):
            return _of_files(listing, expanded(source), options)
        return _of_items(load(source))


def _of_files(listing: Listing, path: Path, options: LoadOptions) -> DataCheck:
    found = DataCheck(listing.name)
    found.unreadable += [(name, "no regular file") for name in listing.left_out]
    same: dict[str, list[int]] = defaultdict(list)
    labels: Counter[int] = Counter()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for i, seen in enumerate(pool.map(partial(_look, options=options), listing.files)):
            tell("reading images", i + 1, len(listing.files))
            name = listing.files[i].name
            if isinstance(seen, UndecodableImage):
                found.unreadable.append((name, str(seen).removeprefix(f"{name}: ")))
                continue
            mode, size, kind, digest = seen
            found.modes[mode] += 1
            found.sizes[size] += 1
            found.kinds[kind] += 1
            same[digest].append(i)
            if listing.labels is not None:
                labels[listing.labels[i]] += 1
    found.images = found.sizes.total()
    for group in same.values():
        if len(group) > 1:
            found.duplicates.append([listing.files[i].name for i in group])
            found.crossing += len({listing.labels[i] for i in group} if listing.labels else ()) > 1
    found.classes = _named(labels, set(listing.labels or ()), listing.classes)
    if path.is_dir() and listing.shards is None:
        found.ignored = _ignored(path)
    return found


def _of_items(items: ImageDataset) -> DataCheck:
    channels, *sides = items.shape[1:]
    same: dict[bytes, list[str]] = defaultdict(list)
    for i, image in enumerate(items.images):
        same[_digest(image).encode()].append(f"image {i}")
    found = DataCheck(items.name, len(items))
    found.sizes[(sides[-1], sides[0])] = found.kinds[(channels, _name(items.dtype))] = len(items)
    found.duplicates = [group for group in same.values() if len(group) > 1]
    if items.labels is not None and items.labels.dtype == torch.int64:
        labels = Counter(items.labels.tolist())
        found.classes = _named(labels, set(labels), items.classes)
    return found


def _look(
    file: ImageFile, options: LoadOptions
) -> tuple[str, tuple[int, int], tuple[int, str], str] | UndecodableImage:
    """Format and mode, size, channels and dtype, and a digest of the pixels."""
    try:
        with file.open() as stream:
            content = stream.read(MAX_ENTRY_BYTES)
        pixels = (file.decode or decode)(io.BytesIO(content), file.name, options)
    except UndecodableImage as error:
        return error
    mode = PurePosixPath(file.name).suffix
    if file.decode is None:
        with Image.open(io.BytesIO(content)) as image:
            mode = f"{image.format} {image.mode}"
    channels, height, width = pixels.shape
    return mode, (width, height), (channels, _name(pixels.dtype)), _digest(pixels)


def _digest(pixels: Tensor) -> str:
    content = pixels.contiguous().flatten().view(torch.uint8).numpy().data
    return hashlib.sha256(content).hexdigest() + str(list(pixels.shape))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _named(counts: Counter[int], there: set[int], names: tuple[str, ...] | None) -> dict[str, int]:
    numbers = range(len(names)) if names else sorted(there)
    return {names[n] if names else str(n): counts[n] for n in numbers}


def _ignored(folder: Path) -> Counter[str]:
    names = (PurePosixPath(n) for _, _, names in os.walk(folder, followlinks=False) for n in names)
    others = (n for n in names if not is_image_name(n) and not n.name.startswith("."))
    return Counter(name.suffix.lower() or "(none)" for name in others)


def _is_jpeg(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in (".jpg", ".jpeg")


def _some(what: str, counts: Iterable[tuple[str, int]]) -> list[str]:
    """A line of counts, the first of them."""
    counts = list(counts)
    if not counts:
        return []
    more = f" and {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else ""
    return [f"{what}: " + ", ".join(f"{name} ({n})" for name, n in counts[:_SHOWN]) + more]
