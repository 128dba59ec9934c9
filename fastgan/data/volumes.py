"""Volumes, with a number each: generated showers, shapes and films, or files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastgan.data.dataset import ImageDataset, spread
from fastgan.data.files import expanded, reading
from fastgan.data.moving import make_moving_digits
from fastgan.data.showers import make_showers
from fastgan.data.source import DataError

GENERATED = "showers", "shapes", "moving-digits"


def open_volumes(
    source: str,
    shape: Sequence[int] = (16, 16, 16),
    count: int = 4096,
    seed: int = 0,
    limit: int | None = None,
) -> ImageDataset:
    """Volumes [N, 1, D, H, W], with conditions float32 [N, 1] in [-1, 1], of films without.

    Args:
        source: "showers" (see `make_showers`), "shapes" (`make_shapes`), "moving-digits"
            (`make_moving_digits`), a .npz with `volumes`
            [N, D, H, W] and `conditions` [N], or a folder of .npz with `volume` [D, H, W] and
            `condition` each, in the order of their names. The lowest condition of a file becomes
            -1 and the highest 1.
        shape: (D, H, W), which files must have.
        count, seed: of what is generated.
        limit: at most so many, evenly spaced.

    Raises:
        OSError: the source cannot be read.
        DataError: damaged, other shapes, mixed sizes, or conditions that do not fit; names the
            file.
    """
    if source == "showers":
        found = make_showers(count, shape, seed)
    elif source == "shapes":
        found = make_shapes(count, shape, seed)
    elif source == "moving-digits":
        found = make_moving_digits(count, shape, seed)
    else:
        found = _of_files(source, tuple(shape))
    return found if limit is None else found.select(spread(len(found), limit))


def make_shapes(count: int, shape: Sequence[int] = (16, 16, 16), seed: int = 0) -> ImageDataset:
    """Boxes, balls and tubes of 0 and 255, uint8 [count, 1, D, H, W], one in each volume, in any
    place; a condition is the size, from -1 (a sixth of the shortest side across) to 1 (a half).
    """
    rng = np.random.default_rng(seed)
    cells = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")) + 0.5
    conditions = rng.uniform(-1, 1, count)
    volumes = np.zeros((count, 1, *shape), np.uint8)
    for number, condition in enumerate(conditions):
        half = min(shape) * (2 + condition) / 6 / 2 + 0.5
        place = [rng.uniform(half, side - half) for side in shape]
        offset = np.abs(cells - np.reshape(place, (3, 1, 1, 1)))
        kind, axis = rng.integers(3), rng.integers(3)
        if kind == 0:
            inside = (offset <= half).all(0)
        elif kind == 1:
            inside = (offset**2).sum(0) <= half**2
        else:
            round_ = np.delete(offset, axis, 0)
            inside = ((round_**2).sum(0) <= half**2) & (offset[axis] <= half)
        volumes[number, 0][inside] = 255
    labels = torch.from_numpy(conditions.astype(np.float32))[:, None]
    return ImageDataset(torch.from_numpy(volumes), labels, name=f"shapes-{seed}")


def _of_files(source: str, shape: tuple[int, ...]) -> ImageDataset:
    path = expanded(source)
    if not path.exists():
        known = " or ".join(GENERATED)
        raise FileNotFoundError(2, f"no volumes there ({known} are generated)", source)
    if path.is_dir():
        files = sorted(path.glob("*.npz"))
        if not files:
            raise DataError(f"{path}: no .npz with a volume")
        parts = [_arrays(file, "volume", "condition") for file in files]
        for file, (volume, condition) in zip(files, parts, strict=True):
            if volume.shape != shape or condition.size != 1:
                raise DataError(
                    f"{file}: volume {list(volume.shape)} with {condition.size} conditions: "
                    f"expected {list(shape)} with one, as all of the folder must have"
                )
        volumes = np.stack([volume for volume, _ in parts])
        conditions = np.stack([condition.reshape(()) for _, condition in parts])
    else:
        volumes, conditions = _arrays(path, "volumes", "conditions")
        if volumes.shape[1:] != shape or conditions.shape != volumes.shape[:1]:
            raise DataError(
                f"{path}: volumes {list(volumes.shape)} with conditions {list(conditions.shape)}: "
                f"expected [N, {', '.join(map(str, shape))}] with [N]"
            )
    if conditions.dtype.kind not in "uif" or not np.isfinite(conditions).all():
        raise DataError(f"{path}: conditions must be finite numbers, got {conditions.dtype}")
    low, high = float(conditions.min()), float(conditions.max())
    scaled = (conditions - low) / max(high - low, 1e-12) * 2 - 1
    labels = torch.from_numpy(scaled.astype(np.float32))[:, None]
    floats = volumes.astype(np.float32) if volumes.dtype == np.float64 else volumes
    return ImageDataset(torch.from_numpy(floats)[:, None], labels, name=str(source))


def _arrays(path: Path, *names: str) -> list[NDArray[Any]]:
    with reading(path, "damaged NumPy file"), np.load(path, allow_pickle=False) as arrays:
        if missing := [name for name in names if name not in arrays]:
            raise DataError(f"{path}: no array {missing[0]!r}: it has {', '.join(arrays)}")
        return [arrays[name] for name in names]
