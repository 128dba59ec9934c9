"""Levels of tile games in text files, the Sokoban format: rows of tiles, read as one-hot maps.

A row begins with a wall, after floor; rows that follow each other are a level, and other lines
(titles, comments) stand between levels. Source of the format: http://sokobano.de/wiki (Level
format); `-` and `_` are floor, too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastgan.checks import sides
from fastgan.data.dataset import ImageDataset, spread
from fastgan.data.files import expanded, open_regular
from fastgan.data.source import DataError

TILES = "# $.*@+"
"""Wall, floor, box, goal, box on goal, player, player on goal: the channels of a map, in order."""
EMBEDDED = "sokoban"
"""The name of the levels that ship with the package."""
_FLOORS = str.maketrans("-_", "  ")
_SUFFIXES = (".sok", ".txt", ".xsb")
_MAX_BYTES = 16 * 1024**2
_EMBEDDED_FILE = Path(__file__).parent / "embedded" / "sokoban.txt"


def open_levels(
    source: str, image_size: int | Sequence[int] = 16, limit: int | None = None
) -> ImageDataset:
    """Levels of at most `image_size` as one-hot maps, uint8 [N, 7, H, W] of 0 and 1.

    Each level is centred in walls, floor outside of its walls becomes wall, and its turned and
    mirrored forms follow it: eight, or four where H and W differ. Larger levels are left out, and
    the set's name says how many.

    Args:
        source: "sokoban" (ships with the package), a text file of levels, or a folder with .sok,
            .txt or .xsb files.
        image_size: the side of a square, or (H, W).
        limit: at most so many levels, evenly spaced over those that fit.

    Raises:
        OSError: the source cannot be read.
        DataError: a tile that is none, an open level, or no level that fits; names file and line.
    """
    height, width = sides(image_size)
    found = list(_levels_of(source))
    fitting = [level for level in found if level.shape[0] <= height and level.shape[1] <= width]
    if not fitting:
        raise DataError(f"{source}: none of its {len(found)} levels fits into {height}x{width}")
    chosen = [fitting[i] for i in spread(len(fitting), limit)]
    maps = np.stack([form for level in chosen for form in _forms(_centred(level, height, width))])
    left_out = len(found) - len(fitting)
    name = f"{source} without {left_out} larger than {height}x{width}" if left_out else str(source)
    return ImageDataset(one_hot(torch.from_numpy(maps)), name=name, value_range=(0.0, 1.0))


def one_hot(tiles: Tensor) -> Tensor:
    """Numbers of tiles [N, H, W] → uint8 [N, 7, H, W] of 0 and 1."""
    return (tiles[:, None] == torch.arange(len(TILES)).view(1, -1, 1, 1)).to(torch.uint8)


def level_text(tiles: Tensor) -> str:
    """A level of tile numbers [H, W] as rows of text, without walls that only surround walls."""
    rows = ["".join(TILES[int(tile)] for tile in row) for row in tiles]
    used = [y for y, row in enumerate(rows) if set(row) != {"#"}] or [0]
    across = [x for x in range(len(rows[0])) if any(row[x] != "#" for row in rows)] or [0]
    rows = rows[max(used[0] - 1, 0) : used[-1] + 2]
    return "\n".join(row[max(across[0] - 1, 0) : across[-1] + 2] for row in rows)


def read_levels(path: Path) -> list[NDArray[np.uint8]]:
    """The levels of a text file, as tile numbers [H, W] each; errors as of `open_levels`."""
    with open_regular(path) as stream:
        content = stream.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise DataError(f"{path}: larger than {_MAX_BYTES} bytes: no file of levels")
    # Titles are in any encoding; tiles are ASCII.
    lines = content.decode("latin-1").splitlines()
    levels: list[NDArray[np.uint8]] = []
    rows: list[str] = []
    for number, line in enumerate([*lines, ""], 1):
        row = line.rstrip().translate(_FLOORS)
        if row.lstrip().startswith("#"):
            if unknown := set(row) - set(TILES):
                raise DataError(
                    f"{path}, line {number}: unknown tile {sorted(unknown)[0]!r}: a level is made "
                    f"of {' '.join(map(repr, TILES))}, and - or _ for floor"
                )
            rows.append(row)
        elif rows:
            levels.append(_closed(rows, f"{path}, line {number - len(rows)}"))
            rows = []
    return levels


def _levels_of(source: str) -> Iterator[NDArray[np.uint8]]:
    path = _EMBEDDED_FILE if source == EMBEDDED else expanded(source)
    if not path.exists():
        raise FileNotFoundError(2, f"no levels there (the ones that ship are {EMBEDDED!r})", source)
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES)
    found = [level for file in files for level in read_levels(file)]
    if not found:
        raise DataError(f"{source}: no levels: rows of tiles begin with a wall (#)")
    yield from found


def _closed(rows: list[str], where: str) -> NDArray[np.uint8]:
    """The tiles of a level's rows, with walls outside of it."""
    width = max(map(len, rows))
    tiles = np.array([[TILES.index(c) for c in row.ljust(width)] for row in rows], np.uint8)
    height, wall, floor = len(rows), TILES.index("#"), TILES.index(" ")
    edge = [(y, x) for y in range(height) for x in range(width)]
    edge = [(y, x) for y, x in edge if y in (0, height - 1) or x in (0, width - 1)]
    outside = deque(at for at in edge if tiles[at] != wall)
    while outside:
        y, x = outside.popleft()
        if not (0 <= y < height and 0 <= x < width) or tiles[y, x] == wall:
            continue
        if tiles[y, x] != floor:
            raise DataError(f"{where}: the level is open: its walls do not enclose all its tiles")
        tiles[y, x] = wall
        outside.extend(((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)))
    return tiles


def _centred(level: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    spare = height - level.shape[0], width - level.shape[1]
    return np.pad(level, [(n // 2, n - n // 2) for n in spare])  # of walls, which are 0


def _forms(level: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    turns = range(4) if level.shape[0] == level.shape[1] else (0, 2)
    turned = [np.rot90(level, k) for k in turns]
    return [form for t in turned for form in (t, np.fliplr(t))]
