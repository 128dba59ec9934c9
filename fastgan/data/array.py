"""NumPy files: .npy with images, .npz with images and labels. Pickled content is never loaded."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastgan.data.dataset import ImageDataset, check_numbers, spread
from fastgan.data.files import open_regular, reading
from fastgan.data.image import conform
from fastgan.data.npy import MAGIC, map_npy, read_npy
from fastgan.data.options import MAX_UNPACKED_BYTES, Layout, LoadOptions, Split
from fastgan.data.source import DataError, ValueRange

# The names used by this package, scikit-learn, Keras and MedMNIST, in order of preference.
_IMAGE_KEYS = {
    "train": ("images", "x", "data", "x_train", "train_images", "arr_0"),
    "test": ("x_test", "test_images"),
}
_LABEL_KEYS = {
    "train": ("labels", "y", "target", "y_train", "train_labels", "arr_1"),
    "test": ("y_test", "test_labels"),
}
_MAX_AUTO_CHANNELS = 4
_RANGE_SLACK = 1e-3
_CHUNK = 1024
_BYTES = 0.0, 255.0


class Held(NamedTuple):
    """How an array of images is held: in which dtype, and the values that become -1 and 1."""

    dtype: type[np.generic]
    value_range: ValueRange


def load_array(path: Path, options: LoadOptions) -> ImageDataset:
    """Load images (and labels) from a .npy or .npz file.

    Raises:
        OSError: the file cannot be read.
        DataError: damaged, pickled, without images, a layout that cannot be told or values
            outside the documented ranges (see `to_images`), or labels that do not match.
    """
    images, labels = _read(path, options.split)
    try:
        view = to_nchw(images, options.layout, options.channels)
        chosen = spread(len(view), options.limit)
        held = held_as(view)
        some = as_held(view if options.limit is None else view[chosen], held)
        tensor = conform(some, options, held.value_range)
        wanted = None if labels is None else _to_labels(labels, len(view))[chosen]
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return ImageDataset(tensor, wanted, None, str(path), value_range=held.value_range)


def is_npy(path: Path) -> bool:
    """Tell a .npy file (True) from a .npz, by content: either may have the other's name.

    Raises:
        OSError: the file cannot be read.
        DataError: it is neither.
    """
    with open_regular(path) as stream:
        head = stream.read(len(MAGIC))
        if head == MAGIC:
            return True
        if zipfile.is_zipfile(stream):
            return False
    found = f"it begins with {head!r}" if head else "it is empty"
    raise DataError(f"{path}: not a NumPy file: expected a .npy or a .npz, {found}")


def _read(path: Path, split: Split) -> tuple[NDArray[Any], NDArray[Any] | None]:
    if is_npy(path):
        if split != "train":
            raise DataError(f"{path}: a .npy file has no {split} split")
        return map_npy(path), None
    with (
        open_regular(path) as stream,
        reading(path, "damaged NumPy file"),
        zipfile.ZipFile(stream) as archive,
    ):
        members = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        total = sum(entry.file_size for entry in members.values())
        if total > MAX_UNPACKED_BYTES:
            raise DataError(
                f"{path}: unpacks to {total} bytes, more than {MAX_UNPACKED_BYTES}: refused as a "
                "bomb"
            )
        image_key, label_key = _choose(list(members), split, path)
        images = _read_member(archive, members[image_key])
        labels = None if label_key is None else _read_member(archive, members[label_key])
        return images, labels


def _read_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(entry) as member:
        try:
            return read_npy(member, entry.file_size)  # type: ignore[arg-type]
        except DataError as error:
            raise DataError(f"the member {entry.filename!r}: {error}") from error


def _choose(names: Sequence[str], split: Split, path: Path) -> tuple[str, str | None]:
    """The names of the arrays with images and with labels."""
    image_key = next((key for key in _IMAGE_KEYS[split] if key in names), None)
    label_key = next((key for key in _LABEL_KEYS[split] if key in names), None)
    if image_key is None and len(names) == 1 and split == "train":
        image_key = names[0]
    if image_key is None:
        raise DataError(
            f"{path}: no array with {split} images: expected one named "
            f"{' or '.join(_IMAGE_KEYS[split])}, got {', '.join(names) or 'none'}"
        )
    return image_key, None if label_key == image_key else label_key


def to_nchw(
    array: NDArray[Any], layout: Layout = "auto", channels: int | None = None
) -> NDArray[Any]:
    """Return a view of `array` as [N, C, H, W].

    With "auto", an axis of length 1 to 4, or of `channels`, is taken for channels: in four
    dimensions the last (NHWC) or the second (NCHW), in three the last (HWC, one image); three
    longer axes are NHW. Where two readings fit, or none, the caller has to say.

    Raises:
        DataError: the layout cannot be told, does not fit the array, or an axis is empty.
    """
    shape = list(array.shape)
    if 0 in shape:
        raise DataError(f"an array of shape {shape} holds no image")
    if layout == "auto":
        layout = _guess_layout(shape, channels)
    if len(layout) != len(shape):
        raise DataError(f"layout={layout!r} does not fit an array of shape {shape}")
    for axis in "NC":
        if axis not in layout:
            array, layout = array[None], f"{axis}{layout}"  # type: ignore[assignment]
    return array.transpose([layout.index(axis) for axis in "NCHW"])


def _guess_layout(shape: list[int], channels: int | None) -> Layout:
    if len(shape) not in (3, 4):
        raise DataError(f"expected images in 3 or 4 dimensions, got an array of shape {shape}")
    last, first = (n <= _MAX_AUTO_CHANNELS or n == channels for n in (shape[-1], shape[-3]))
    if len(shape) == 4 and last != first:
        return "NHWC" if last else "NCHW"
    if len(shape) == 3 and not first:
        return "HWC" if last else "NHW"
    if len(shape) == 3 and shape[0] == 1 and not last:
        return "NHW"
    readings = "'NHWC' or 'NCHW'" if len(shape) == 4 else "'NHW', 'HWC' or 'CHW'"
    raise DataError(
        f"the layout of an array of shape {shape} cannot be told: pass layout={readings}"
    )


def held_as(array: NDArray[Any]) -> Held:
    """How images [N, C, H, W] are held, of which all values are read.

    bool and integers in 0..255 as uint8, other uint16 as they are; floating point as float16 where
    it is that and as float32 otherwise: it lies in [-1, 1] if any value is negative, else in [0, 1]
    if none is above 1, else in [0, 255].

    Raises:
        DataError: NaN or infinity, values outside every range, or another kind of dtype.
    """
    dtype = array.dtype
    if dtype == np.uint8 or dtype.kind == "b":
        return Held(np.uint8, _BYTES)
    if dtype.kind not in "uif":
        raise DataError(f"images must be numbers, got dtype {dtype}")
    chunks = range(0, len(array), _CHUNK)
    # np.min, not min: NaN has to come through.
    low = float(np.min([array[i : i + _CHUNK].min() for i in chunks]))
    high = float(np.max([array[i : i + _CHUNK].max() for i in chunks]))
    if dtype.kind == "f":
        found = _range_of_floats(low, high, dtype)
        return Held(np.float16 if dtype.itemsize == 2 else np.float32, found)
    if low >= 0 and high <= 255:
        return Held(np.uint8, _BYTES)
    if (dtype.kind, dtype.itemsize) == ("u", 2):
        return Held(np.uint16, (0.0, 65535.0))
    raise DataError(f"images of dtype {dtype} must lie in 0..255, got {low:.0f}..{high:.0f}")


def as_held(array: NDArray[Any], held: Held) -> Tensor:
    """Images, or some of those, that `held_as` was told of, in memory of their own."""
    made = np.array(array, held.dtype, order="C")
    return torch.from_numpy(made * np.uint8(255) if array.dtype.kind == "b" else made)


def to_images(array: NDArray[Any]) -> Tensor:
    """Convert an array [N, C, H, W] of numbers to uint8 images.

    As `held_as`; floating point is rounded to the nearest of 256 levels, and uint16 above 255 is
    an error, too.
    """
    held = held_as(array)
    if held.dtype is np.uint8:
        return as_held(array, held)
    low, high = held.value_range
    if held.dtype is np.uint16:
        raise DataError(
            f"images of dtype {array.dtype} must lie in 0..255, got up to {array.max()}"
        )
    scale = 255.0 / (high - low)
    out = np.empty(array.shape, np.uint8)
    for i in range(0, len(array), _CHUNK):
        part = array[i : i + _CHUNK].astype(np.float32) * scale - low * scale
        out[i : i + _CHUNK] = np.rint(part).clip(0, 255)
    return torch.from_numpy(out)


def _range_of_floats(low: float, high: float, dtype: np.dtype[Any]) -> ValueRange:
    if not np.isfinite([low, high]).all():
        raise DataError("images hold NaN or infinite values")
    if low < 0 and low >= -1 - _RANGE_SLACK and high <= 1 + _RANGE_SLACK:
        return -1.0, 1.0
    if low >= 0 and high <= 1 + _RANGE_SLACK:
        return 0.0, 1.0
    if low >= 0 and high <= 255 + _RANGE_SLACK:
        return _BYTES
    raise DataError(
        f"images of dtype {dtype} must lie in [0, 1], [-1, 1] or [0, 255], "
        f"got {low:.6g} to {high:.6g}: scale them, or hand over ImageDataset(images, "
        "value_range=(low, high))"
    )


def _to_labels(labels: NDArray[Any], count: int) -> Tensor:
    if labels.dtype.kind not in "ui":
        raise DataError(f"labels must be integers, got dtype {labels.dtype}")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    check_numbers(labels, count)  # before a large unsigned one comes out negative
    return torch.from_numpy(labels.astype(np.int64))
