"""What the weight gradient's launcher decides before it launches: operands, tiles, slices."""

from dataclasses import dataclass, replace
from math import prod

import torch

from fastgan.kernels.conv_block.geometry import (
    ConvConfig,
    ConvGeometry,
    Target,
    Triple,
    common_segments,
    old_compiler,
)
from fastgan.kernels.core.geometry import INDEX_LIMIT, cdiv

# The configurations that ship, for 16-bit tensors, TF32, and float32 without tensor cores: block_m
# dense channels by block_n columns (tap, gathered channel), block_k positions a step. Where shared
# memory is smaller than on Hopper, steps are half as long and one stage more is in flight: its
# matrix units read operands from shared memory, others need registers for them.
_HALF = (
    ConvConfig(128, 128, 64, 8, 3),
    ConvConfig(128, 64, 64, 8, 3),
    ConvConfig(64, 128, 64, 8, 3),
    ConvConfig(64, 64, 64, 4, 3),
    ConvConfig(16, 64, 64, 4, 3),
)
CONFIGS = {
    "half": _HALF,
    "tf32": tuple(replace(config, block_k=32) for config in _HALF),
    "ieee": (ConvConfig(64, 64, 16, 8, 2), ConvConfig(16, 64, 16, 4, 2)),
}
# A tile that spills where operands go through registers.
TALL = (64, 128)
LARGE, SMALL = Target().shared, 2**16
# Channels whose loads are at least 8 bytes wide come in multiples of this. Where an operand has no
# such channels, scalar registers of AMD hold the masks of no more than the tiny tile.
VECTOR, SMALL_TILE, TINY = 4, 64 * 64, ConvConfig(16, 16, 32, 8, 1)
# What `configure` and `split` count on: the work of forming a value, in multiply-adds; the
# multiprocessors of an H100, each with room for 8 warps; the tiles that fill a pipeline. Fixed, not
# asked of the device: the order of a sum, and its last bit, is the same on every GPU of a kind.
FORMING = 64
MULTIPROCESSORS, MAX_WAVES, MIN_TILES = 132, 4, 8
# Positions of a segment are counted in 32 bits, the last tile's surplus among them.
MAX_POSITIONS = INDEX_LIMIT - 1024


def configs(
    dtype: torch.dtype, input_precision: str, target: Target | None = None
) -> list[ConvConfig]:
    """Every configuration that `configure` can return on a target."""
    target = target or Target()
    found = CONFIGS["half" if dtype.itemsize == 2 else input_precision]
    if target.shared < LARGE:
        stages = 4 if target.shared > SMALL else 2
        found = tuple(
            replace(config, block_k=max(16, config.block_k // 2), stages=stages)
            for config in found
            if (config.block_m, config.block_n) != TALL
        )
    if target.shared <= SMALL:
        found += (TINY,)
    if old_compiler():  # registers of masks and addresses, see `configure`
        found = tuple(replace(config, warps=8) for config in found)
    return [replace(config, registers=target.registers) for config in found]


@dataclass(frozen=True)
class Product:
    """The matrix product of a weight gradient, over the positions of the dense operand: it is read
    one by one, the other gathered (see ``weight_kernels.py``). The batch is in ``segments``.
    """

    geo: ConvGeometry
    segments: int

    @property
    def dense_channels(self) -> int:
        return self.geo.channels_in if self.geo.transposed else self.geo.channels_out

    @property
    def channels(self) -> int:
        return self.geo.channels_out if self.geo.transposed else self.geo.channels_in

    @property
    def dense_size(self) -> Triple:
        return self.geo.size_in if self.geo.transposed else self.geo.size_out

    @property
    def gathered_size(self) -> Triple:
        return self.geo.size_out if self.geo.transposed else self.geo.size_in

    @property
    def columns(self) -> int:
        return self.geo.taps * self.channels

    @property
    def segment_images(self) -> int:
        return self.geo.images // self.segments

    def blocks(self, config: ConvConfig) -> tuple[int, int]:
        return cdiv(self.dense_channels, config.block_m), cdiv(self.columns, config.block_n)

    def segment_tiles(self, config: ConvConfig) -> int:
        """Tiles do not cross segments."""
        return cdiv(self.segment_images * prod(self.dense_size), config.block_k)

    def slices(self, config: ConvConfig) -> tuple[int, int]:
        """(slices, tiles of each), see `split`."""
        tiles = self.segments * self.segment_tiles(config)
        return split(prod(self.blocks(config)), tiles, config.warps)

    def wide(self, config: ConvConfig) -> bool:
        """Whether offsets from a tile's first position, or from its first image, pass 32 bits."""
        images = cdiv(config.block_k, prod(self.dense_size)) + 2
        gathered = images * prod(self.gathered_size) * self.channels
        return max(gathered, config.block_k * self.dense_channels) >= INDEX_LIMIT

    def spread(self, rows: torch.Tensor | None) -> torch.Tensor | None:
        """``rows`` with one row a segment, or a single one."""
        if rows is None or rows.shape[0] in (1, self.segments):
            return rows
        return rows.repeat_interleave(self.segments // rows.shape[0], 0)


def split(blocks: int, tiles: int, warps: int) -> tuple[int, int]:
    """(slices, tiles of each) of a sum over ``tiles``, for ``blocks`` of the result: of up to
    MAX_WAVES waves of programs, the fewest slices that take at most a tenth longer than the best
    number. Bounds the partial sums to 35 MB, or to one slice.
    """
    slots = MULTIPROCESSORS * max(1, 8 // warps)
    most = max(1, min(MAX_WAVES * slots // blocks, tiles // MIN_TILES))
    waves = {n: cdiv(n * blocks, slots) / n for n in range(1, most + 1)}
    enough = next(n for n, time in waves.items() if time <= 1.1 * min(waves.values()))
    length = cdiv(tiles, enough)
    return cdiv(tiles, length), length


def product(geo: ConvGeometry, *rows: torch.Tensor | None) -> Product:
    """The coarsest segments that respect those of ``rows`` and count positions in 32 bits."""
    least = common_segments(*(r.shape[0] for r in rows if r is not None))
    positions = prod(geo.size_in if geo.transposed else geo.size_out)
    for segments in range(least, geo.images + 1, least):
        if geo.images % segments == 0 and geo.images // segments * positions <= MAX_POSITIONS:
            return Product(geo, segments)
    raise ValueError(
        f"x: expected at most {MAX_POSITIONS} positions an image, got {positions} in {geo}"
    )


def configure(
    work: Product, dtype: torch.dtype, input_precision: str, target: Target
) -> ConvConfig:
    """The shipped configuration of least estimated work: for each block and position block_m *
    block_n multiply-adds, and FORMING times one for each value that is formed, half as much again
    in the gathered operand where the columns of a block do not share their tap. Channels that do
    not load in vectors need registers for the addresses and masks: where one operand's do not, the
    tiles are the small ones, and where neither's do, or on AMD, the smallest.
    """
    scalar = sum(c % VECTOR != 0 for c in (work.dense_channels, work.channels))

    def estimate(config: ConvConfig) -> float:
        mixed = 1.5 if work.channels % config.block_n else 1.0
        formed = config.block_m + mixed * config.block_n
        area = config.block_m * config.block_n
        return prod(work.blocks(config)) * (area + FORMING * formed)

    available = configs(dtype, input_precision, target)
    if scalar == 2 or (scalar and target.shared <= SMALL):
        return min(available, key=lambda config: config.block_m * config.block_n)
    if scalar == 1:
        available = [c for c in available if c.block_m * c.block_n <= SMALL_TILE]
    return min(available, key=estimate)


def divider(d: int) -> tuple[int, int]:
    """(multiplier, shift) with n // d = (2 n * multiplier >> 32) >> shift for 0 <= n < 2^31, d >= 1
    (Granlund and Montgomery 1994). The multiplier has 32 bits, here those of a signed integer.
    """
    shift = (d - 1).bit_length()
    return cdiv(1 << 31 + shift, d) - 2**32, shift
