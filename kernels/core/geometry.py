"""What a launcher decides before it launches: layout, tiles, grid, launch configuration."""

import contextlib
import functools
from dataclasses import dataclass
from math import gcd

import torch

from fastgan.kernels.core.by_shape import by_shape

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# About this many programs share a reduction over one, or two, full tensors: what runs at once
# with 132 multiprocessors and the registers that the kernel report shows (7 and 5 programs of 4
# warps each). Fixed, not asked of the device: the order of the merges, and with it the last bit, is
# then the same on every GPU.
REDUCE_PROGRAMS = {1: 896, 2: 640}
INDEX_LIMIT = 2**31  # offsets from here on need 64 bits
# Tiles an elementwise program handles at most, so that it loads its channels' values once.
APPLY_TILES = 4
MERGE_BLOCK_K, MERGE_BLOCK_C, MERGE_WARPS = 512, 8, 8
MERGE_GROUPS = 8  # up to this many segments, one program merges them all
# A program may also loop over tiles in a single launch (a second read then comes from cache), if
# there are this many such programs and each has at most so many values.
LOOPED_PROGRAMS, LOOPED_VALUES = 128, 65536


@dataclass(frozen=True)
class Config:
    """One launch configuration. ``tile`` values (a power of two) a program holds at a time, at most
    ``columns`` of them along the channels in channels-last memory, on ``warps`` warps; loops over
    tiles are pipelined ``stages`` deep. ``single``: one program does a segment and column block
    from first load to last store (one launch); otherwise partials, merge, apply. An elementwise
    pass runs the same tile on ``apply_warps``: it has no sums to hold, and more threads hide more.
    """

    tile: int
    columns: int
    warps: int
    stages: int = 1
    single: bool = False
    apply_warps: int = 8


# The configurations that ship. Columns: 128 bytes of a row in the tiled passes (one cache line),
# 32 bytes (a full memory sector) where one program owns a channel block.
TILED = {2: Config(2048, 64, 4), 4: Config(2048, 32, 4)}
LOOPED = {2: Config(4096, 16, 8, single=True), 4: Config(4096, 8, 8, single=True)}
# Whole columns in registers, the first that fits. A backward pass holds two tensors, so where the
# forward pass takes 16384 values it takes half the columns.
_RESIDENT = {
    2: (Config(2048, 16, 4, single=True), Config(8192, 16, 8, single=True)),
    4: (Config(2048, 8, 4, single=True), Config(8192, 8, 8, single=True)),
}
RESIDENT = {
    "forward": {
        2: (
            *_RESIDENT[2],
            Config(16384, 16, 16, single=True),
            Config(16384, 8, 16, single=True),
        ),
        4: (*_RESIDENT[4], Config(16384, 8, 16, single=True)),
    },
    "backward": {
        2: (*_RESIDENT[2], Config(8192, 8, 8, single=True), Config(8192, 4, 8, single=True)),
        4: (*_RESIDENT[4], Config(8192, 4, 8, single=True)),
    },
}


def configs(dtype: torch.dtype) -> list[Config]:
    """Every configuration worth measuring for ``dtype``; those that ship are among them."""
    size = dtype.itemsize
    line = 128 // size
    tiled = [
        Config(tile, columns, warps, stages)
        for tile, warps in ((1024, 4), (2048, 4), (2048, 8), (4096, 8))
        for columns in (line // 2, line, 2 * line)
        for stages in (1, 3)
    ]
    single = [
        Config(tile, columns, warps, single=True)
        for tile, warps in ((2048, 4), (4096, 8), (8192, 8), (8192, 16), (16384, 16))
        for columns in (line // 8, line // 4, line // 2)
    ]
    return [*dict.fromkeys([*tiled, *single, *shipped_configs(dtype)])]


def shipped_configs(dtype: torch.dtype) -> list[Config]:
    """The configurations `configure` can return for ``dtype``."""
    size = dtype.itemsize
    resident = dict.fromkeys((*RESIDENT["forward"][size], *RESIDENT["backward"][size]))
    return [TILED[size], LOOPED[size], *resident]


@dataclass(frozen=True)
class Geometry:
    """A dense N x C x spatial tensor as (segments, planes, length, width); see ``device.py``."""

    channels_last: bool
    segments: int
    channels: int
    planes: int
    length: int
    fold: int = 1

    @property
    def width(self) -> int:
        return self.channels * self.fold

    @property
    def count(self) -> int:
        """Values of one channel in one segment."""
        return self.planes * self.length * self.fold

    @property
    def vec(self) -> int:
        return gcd(self.width if self.channels_last else self.length, 16)

    @by_shape
    def folded(self) -> "Geometry":
        """Rows joined until a row is a multiple of 16 values, where the row count allows it."""
        fold = 16 // gcd(self.channels, 16)
        if not self.channels_last or fold == 1 or self.length % fold:
            return self
        return Geometry(True, self.segments, self.channels, 1, self.length // fold, fold)


def geometry(x: torch.Tensor, segments: int = 1) -> Geometry:
    """The geometry of ``x``, shape (N, C, *spatial), dense, channels-last or contiguous."""
    if x.dtype not in DTYPES:
        raise TypeError(f"x: expected float32, bfloat16 or float16 for Triton, got {x.dtype}")
    if x.dim() < 2:
        raise ValueError(f"x: expected (N, C, *spatial), got shape {tuple(x.shape)}")
    n, c = x.shape[:2]
    if segments < 1 or n % segments:
        raise ValueError(
            f"segments: {segments} does not divide the batch of shape {tuple(x.shape)}"
        )
    spatial = x[0, 0].numel() if n and c else 0
    planes = n // segments
    if x.is_contiguous() and spatial != 1:
        if c == 1:
            return Geometry(False, segments, 1, 1, planes * spatial)
        return Geometry(False, segments, c, planes, spatial)
    if not is_channels_last(x):
        raise ValueError(
            f"x: expected contiguous or channels-last memory, got shape {tuple(x.shape)} with "
            f"strides {x.stride()}"
        )
    return Geometry(True, segments, c, 1, planes * spatial)


_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def is_channels_last(x: torch.Tensor) -> bool:
    known = _CHANNELS_LAST.get(x.dim())
    if known is None:
        return x.movedim(1, -1).is_contiguous()
    # A tenth of what a view takes; of an empty tensor torch says no.
    return x.is_contiguous(memory_format=known) or x.numel() == 0


def flat(x: torch.Tensor) -> Geometry:
    """Any dense tensor as one channel, for passes that do not tell channels apart."""
    return Geometry(False, 1, 1, 1, x.numel())


def _ceil_pow2(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


@dataclass(frozen=True)
class Plan:
    """Tiles and grid of one pass over a geometry."""

    geo: Geometry
    block_p: int
    block_l: int
    block_w: int
    tiles: int  # tiles of one segment and column block
    tiles_per_chunk: int
    warps: int
    stages: int

    @property
    def column_blocks(self) -> int:
        return cdiv(self.geo.width, self.block_w)

    @property
    def chunks(self) -> int:
        return cdiv(self.tiles, self.tiles_per_chunk)

    @property
    def span(self) -> int:
        """More than the largest element offset inside a tile, its masked values included."""
        geo = self.geo
        if geo.channels_last:
            return (self.block_l - 1) * geo.width + self.block_w
        planes = (self.block_p - 1) * geo.width + self.block_w - 1
        return planes * geo.length + self.block_l

    @functools.cached_property
    def grid(self) -> tuple[int]:
        return (self.geo.segments * self.chunks * self.column_blocks,)

    @functools.cached_property
    def arguments(self) -> dict[str, object]:
        """Keyword arguments every tiled kernel takes, launch options included."""
        geo = self.geo
        inner = geo.width if geo.channels_last else geo.length
        return {
            "planes": geo.planes,
            "length": geo.length,
            "width": geo.width,
            "units": inner // geo.vec,
            "column_blocks": self.column_blocks,
            "chunks": self.chunks,
            "tiles": self.tiles,
            "tiles_per_chunk": self.tiles_per_chunk,
            "CHANNELS_LAST": geo.channels_last,
            "FOLD": geo.fold,
            "VEC": geo.vec,
            "BLOCK_P": self.block_p,
            "BLOCK_L": self.block_l,
            "BLOCK_W": self.block_w,
            "WIDE": self.span >= INDEX_LIMIT,
            "STAGES": self.stages,
            "num_warps": self.warps,
        }


# Kernel arguments that vary with the shape: not specialised on, or every shape would compile anew.
SHAPE_ARGUMENTS = (
    "planes", "length", "width", "units", "column_blocks", "chunks", "tiles", "tiles_per_chunk",
)  # fmt: skip


def _blocks(geo: Geometry, config: Config) -> tuple[int, int, int]:
    """(BLOCK_P, BLOCK_L, BLOCK_W) whose product is at most ``config.tile``."""
    if geo.channels_last:
        block_w = min(_ceil_pow2(geo.width), config.columns, config.tile)
        return 1, min(_ceil_pow2(geo.length), config.tile // block_w), block_w
    block_l = min(_ceil_pow2(geo.length), config.tile)
    rest = config.tile // block_l
    # Planes of one tile must divide the planes of a segment: only `length` has a masked tail.
    block_p = gcd(geo.planes, _ceil_pow2(geo.planes))
    if config.single:
        # A program owns its columns: just enough of them for 32 adjacent bytes.
        block_w = min(_ceil_pow2(geo.width), max(1, config.columns // block_l), rest)
        return min(block_p, rest // block_w), block_l, block_w
    block_w = min(_ceil_pow2(geo.width), rest)
    return min(block_p, rest // block_w), block_l, block_w


@by_shape
def plan(geo: Geometry, config: Config, chunked: str, tensors: int = 1) -> Plan:
    """Plan of one pass: ``chunked`` is "whole" (a program loops over all tiles of its columns),
    "reduce" (over so many full ``tensors``: REDUCE_PROGRAMS) or "apply" (up to APPLY_TILES each).
    """
    block_p, block_l, block_w = _blocks(geo, config)
    tiles = cdiv(geo.length, block_l) * (geo.planes // block_p)
    owners = geo.segments * cdiv(geo.width, block_w)
    warps = config.apply_warps if chunked == "apply" else config.warps
    if chunked == "whole":
        tiles_per_chunk = tiles
    elif chunked == "apply":
        tiles_per_chunk = min(APPLY_TILES, max(1, tiles * owners // REDUCE_PROGRAMS[1]))
    else:
        tiles_per_chunk = cdiv(tiles, max(1, REDUCE_PROGRAMS[tensors] // owners))
    return Plan(geo, block_p, block_l, block_w, tiles, tiles_per_chunk, warps, config.stages)


@by_shape
def configure(geo: Geometry, itemsize: int, direction: str) -> Config:
    """The shipped configuration for a shape and "forward" or "backward": ``single`` where a channel
    block is small.
    """
    for config in RESIDENT[direction][itemsize]:
        block_p, block_l, _ = _blocks(geo, config)
        if block_p == geo.planes and block_l >= geo.length:
            return config
    block_p, block_l, block_w = _blocks(geo, LOOPED[itemsize])
    owners = geo.segments * cdiv(geo.width, block_w)
    looped = geo.count * block_w <= LOOPED_VALUES and block_p * block_l * block_w >= 1024
    return LOOPED[itemsize] if looped and owners >= LOOPED_PROGRAMS else TILED[itemsize]


def require_same_layout(
    name: str, tensor: torch.Tensor, like_name: str, like: torch.Tensor
) -> None:
    """ValueError unless both have one shape and one memory order."""

    def layout(t: torch.Tensor) -> list[tuple[int, int]]:
        return [pair for pair in zip(t.shape, t.stride(), strict=True) if pair[0] > 1]

    if tensor.shape != like.shape or layout(tensor) != layout(like):
        raise ValueError(
            f"{name}: expected {like_name}'s shape {tuple(like.shape)} and strides "
            f"{like.stride()}, got {tuple(tensor.shape)} and {tensor.stride()}"
        )


def device_guard(x: torch.Tensor) -> contextlib.AbstractContextManager[object]:
    """Makes x's device current, so that a launch goes to that device's current stream."""
    return torch.cuda.device_of(x) if may_be_elsewhere(x) else _NO_GUARD


_NO_GUARD = contextlib.nullcontext()


def may_be_elsewhere(x: torch.Tensor) -> bool:
    """Whether another device than x's may be current: a guard takes longer than to ask."""
    return x.is_cuda and _several_devices()


@functools.cache
def _several_devices() -> bool:
    return torch.cuda.device_count() > 1
