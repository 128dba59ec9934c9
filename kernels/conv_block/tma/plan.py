"""What the launchers of the TMA kernels decide before they launch: boxes, tiles, slices."""

import functools
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from itertools import product as pairs
from math import gcd, prod
from typing import Any, TypeVar

import torch

from fastgan.kernels.conv_block.geometry import ConvConfig, ConvGeometry, Target
from fastgan.kernels.conv_block.weight_plan import MULTIPROCESSORS, Product, split
from fastgan.kernels.core.by_shape import by_shape
from fastgan.kernels.core.geometry import cdiv
from fastgan.kernels.core.precision import precision

Launcher = TypeVar("Launcher")

# Channels come in multiples of this: of 16 bits 32 bytes, the narrowest that TMA swizzles.
CHANNELS = 16
# The configurations that ship, for 16-bit tensors; block_k is a most, that of 128 bytes a position:
# of such a step each issues for fewer cycles on Hopper than it multiplies. Of TF32, of which a
# product takes steps of as many bytes, the matrix unit makes half as many multiply-adds a cycle.
PRODUCT = (
    ConvConfig(128, 128, 64, 8, 4),
    ConvConfig(128, 64, 64, 4, 4),
    ConvConfig(64, 128, 64, 4, 4),
)
WEIGHT = (
    ConvConfig(128, 128, 64, 8, 4),
    ConvConfig(128, 64, 64, 4, 4),
    ConvConfig(64, 128, 64, 4, 4),
)
# Boxes may be so many times as many as the fewest where they are of fewer rows and columns.
SURPLUS = 1.15
# Most slices of a product, and fewest steps of one. Adding slices takes a launch, and reads and
# writes: as long as so many steps of the largest tile, and as one for so many values of a slice.
MAX_SLICES, MIN_STEPS, ADD_LAUNCH, ADD_VALUES = 8, 8, 7.0, 1 << 17
# A tile of half the size reads its operands half as often again for the same work.
HALF_TILE = 1.15


def serves(geo: ConvGeometry, x: torch.Tensor, of_weight: bool = False) -> bool:
    """Whether these kernels run a convolution: on GPUs from Hopper on, of tensors of 16 bits, or of
    float32 in TF32, of one or two dimensions, with multiples of 16 channels on both sides.

    Args:
        of_weight: its weight gradient; else forward pass and data gradient.
    """
    return supports(geo, x.dtype, precision(x), of_weight) and has_tma(x.device)


def supports(
    geo: ConvGeometry, dtype: torch.dtype, input_precision: str, of_weight: bool = False
) -> bool:
    """`serves`, whatever the device.

    The weight gradient sums over positions, which are adjacent in neither operand: in TF32 Hopper's
    matrix unit does not take it.
    """
    channels = geo.channels_in % CHANNELS == 0 and geo.channels_out % CHANNELS == 0
    kind = dtype.itemsize == 2 or (input_precision == "tf32" and not of_weight)
    return kind and geo.dims <= 2 and channels and geo.images > 0


@functools.cache
def has_tma(device: torch.device) -> bool:
    """Whether a device copies boxes of tensors by itself: NVIDIA's from Hopper on."""
    nvidia = device.type == "cuda" and not torch.version.hip
    return nvidia and torch.cuda.get_device_capability(device) >= (9, 0)


def product_configs(channels_in: int, target: Target, itemsize: int = 2) -> list[ConvConfig]:
    """Every configuration that `product_plan` can return."""
    step = gcd(channels_in, PRODUCT[0].block_k * 2 // itemsize)
    return [_fitted(replace(config, block_k=step), target, itemsize) for config in PRODUCT]


def weight_configs(target: Target) -> list[ConvConfig]:
    """Every configuration that `weight_plan` can return."""
    return [_fitted(config, target) for config in WEIGHT]


def _fitted(config: ConvConfig, target: Target, itemsize: int = 2) -> ConvConfig:
    fitted = config.fitted(itemsize, 1, target.shared - BARRIERS)
    return replace(fitted, registers=target.registers)


# Bytes of shared memory that the barriers of the loads take.
BARRIERS = 256


@dataclass(frozen=True)
class Boxes:
    """``size`` (images, height, width) of a box, and how many there are along each."""

    size: tuple[int, int, int]
    tiles: tuple[int, int, int]

    @property
    def count(self) -> int:
        return prod(self.tiles)

    def flat(self, height: int, width: int) -> bool:
        """Whether the positions of each box follow each other in memory."""
        images, h, w = self.size
        rows = w == width and height % h == 0 and (images == 1 or h == height)
        return rows or (images == h == 1 and width % w == 0)


@by_shape
def boxes(positions: int, images: int, height: int, width: int) -> Boxes:
    """Boxes of a number of positions, a power of 2, that cover images of height x width: of those
    that are nearly as few as can be the ones that cut an image least, and of these the widest.
    """
    powers = [1 << i for i in range(positions.bit_length())]
    found = []
    for h, w in pairs(powers, powers):
        if h * w <= positions:
            size = positions // (h * w), h, w
            tiles = cdiv(images, size[0]), cdiv(height, h), cdiv(width, w)
            found.append(Boxes(size, tiles))
    most = SURPLUS * min(b.count for b in found)
    near = [b for b in found if b.count <= most]
    return min(near, key=lambda b: (b.tiles[1] * b.tiles[2], b.count, -b.size[2]))


class _Launched:
    """A plan that keeps the launchers made for it, by what they were made with."""

    @functools.cached_property
    def _launchers(self) -> dict[Hashable, Any]:
        return {}

    def launcher(self, key: Hashable, make: Callable[[], Launcher]) -> Launcher:
        found: Launcher | None = self._launchers.get(key)
        if found is None:
            found = self._launchers[key] = make()
        return found


@dataclass(frozen=True)
class ProductPlan(_Launched):
    """One launch of `tma_conv_kernel`, the batch in ``segments``; or, of a layer with so few
    positions that multiprocessors would idle, one of `tma_slice_kernel` in ``slices``.
    """

    geo: ConvGeometry
    config: ConvConfig
    boxes: Boxes
    segments: int
    slices: int = 1

    @property
    def tiles(self) -> int:
        """Partials of a segment."""
        return self.boxes.count * self.geo.phases

    @property
    def column_tiles(self) -> int:
        return cdiv(self.geo.channels_out, self.config.block_n)

    @property
    def programs(self) -> int:
        """Of a slice."""
        return self.segments * self.tiles * self.column_tiles

    @property
    def steps(self) -> int:
        """Of the phase with the most taps."""
        sizes = zip(self.geo.kernel[1:], self.geo.stride[1:], strict=True)
        taps = prod(cdiv(k, s) if self.geo.transposed else k for k, s in sizes)
        return taps * self.geo.channels_in // self.config.block_k

    @property
    def slice_steps(self) -> int:
        return cdiv(self.steps, self.slices)

    @functools.cached_property
    def grid(self) -> tuple[int]:
        return (self.slices * self.programs,)

    @functools.cached_property
    def arguments(self) -> dict[str, Any]:
        """What every launch takes, by the kernels' names; launch options included."""
        geo, boxes, config = self.geo, self.boxes, self.config
        return {
            "units_out": geo.channels_out // 16,
            "images": geo.images // self.segments,
            "OH": geo.size_out[1],
            "OW": geo.size_out[2],
            "tiles_h": boxes.tiles[1],
            "tiles_w": boxes.tiles[2],
            "tiles": boxes.count,
            "column_tiles": self.column_tiles,
            "TRANSPOSED": geo.transposed,
            "CHANNELS": geo.channels_in,
            "BLOCK_N": config.block_n,
            "BLOCK_K": config.block_k,
            **_axes(geo),
            **_box(boxes.size),
            **_options(config),
        }

    def time(self) -> float:
        """A model of it: the multiprocessor with the most programs is done last, and a program
        takes as long as its tile is large. In steps of the largest tile.
        """
        area = self.config.block_m * self.config.block_n
        whole = PRODUCT[0].block_m * PRODUCT[0].block_n
        share = area / whole * (1.0 if area == whole else HALF_TILE)
        adding = ADD_LAUNCH + self.slices * self.programs * area / ADD_VALUES
        waves = cdiv(self.slices * self.programs, MULTIPROCESSORS)
        return waves * self.slice_steps * share + (adding if self.slices > 1 else 0.0)


@by_shape
def product_plan(
    geo: ConvGeometry,
    segments: int,
    target: Target,
    config: ConvConfig | None = None,
    itemsize: int = 2,
) -> ProductPlan:
    """The plan that takes the least time by its model, of the shipped configurations and numbers of
    slices; or an unsliced one of a configuration given. It follows from the shape and the bytes of
    a value: a sum has the same order, and the same last bit, on every GPU.
    """
    height, width = geo.size_out[1:]
    if geo.transposed:
        height, width = cdiv(height, geo.stride[1]), cdiv(width, geo.stride[2])
    images = geo.images // segments

    def plan(config: ConvConfig) -> ProductPlan:
        return ProductPlan(geo, config, boxes(config.block_m, images, height, width), segments)

    if config is not None:
        return plan(config)
    unsliced = [plan(config) for config in product_configs(geo.channels_in, target, itemsize)]
    sliced = [
        replace(p, slices=n)
        for p in unsliced
        for n in range(2, MAX_SLICES + 1)
        if p.steps >= n * MIN_STEPS and p.programs * n <= MULTIPROCESSORS
    ]
    return min(unsliced + sliced, key=ProductPlan.time)


@dataclass(frozen=True)
class WeightPlan(_Launched):
    """One launch of `tma_weight_kernel`: ``work`` in ``slices`` of ``length`` boxes."""

    work: Product
    config: ConvConfig
    boxes: Boxes
    slices: int
    length: int

    @property
    def blocks(self) -> tuple[int, int]:
        """Of dense channels, and of gathered ones of a tap."""
        config = self.config
        rows = cdiv(self.work.dense_channels, config.block_m)
        return rows, cdiv(self.work.channels, config.block_n)

    @property
    def masked(self) -> bool:
        """Whether boxes overhang their image where the gathered operand has rows or columns that no
        tap reads, such as a last one that a stride drops.
        """
        geo, work = self.work.geo, self.work
        axes = zip(
            work.dense_size[1:], self.boxes.size[1:], work.gathered_size[1:], geo.kernel[1:],
            geo.stride[1:], geo.padding[1:], strict=True,
        )  # fmt: skip
        return any(n % box and (n - 1) * s - p + k < size for n, box, size, k, s, p in axes)

    @property
    def flat(self) -> bool:
        """Whether the positions of each box of the dense operand follow each other in memory."""
        return self.boxes.flat(*self.work.dense_size[1:])

    @functools.cached_property
    def grid(self) -> tuple[int]:
        return (prod(self.blocks) * self.work.geo.taps * self.slices,)

    @functools.cached_property
    def arguments(self) -> dict[str, Any]:
        """As the product's."""
        work, boxes, config = self.work, self.boxes, self.config
        rows, channels = self.blocks
        return {
            "dense_units": work.dense_channels // 16,
            "units": work.channels // 16,
            "tiles": boxes.count,
            "slice_tiles": self.length,
            "row_blocks": rows,
            "channel_blocks": channels,
            "height": work.dense_size[1],
            "width": work.dense_size[2],
            "FLAT": self.flat,
            "MASK": self.masked,
            "TILES_H": boxes.tiles[1],
            "TILES_W": boxes.tiles[2],
            "BLOCK_M": config.block_m,
            "BLOCK_N": config.block_n,
            **_axes(work.geo),
            **_box(boxes.size),
            **_options(config),
        }


@by_shape
def weight_plan(geo: ConvGeometry, target: Target, config: ConvConfig | None = None) -> WeightPlan:
    """The plan of the shipped configuration whose tiles hold the fewest values; or of one given."""
    work = Product(geo, 1)

    def plan(config: ConvConfig) -> WeightPlan:
        found = boxes(config.block_k, geo.images, *work.dense_size[1:])
        unsliced = WeightPlan(work, config, found, 1, found.count)
        slices, length = split(unsliced.grid[0], found.count, config.warps)
        return replace(unsliced, slices=slices, length=length)

    def area(plan: WeightPlan) -> int:
        return prod(plan.blocks) * plan.config.block_m * plan.config.block_n

    return plan(config) if config is not None else min(map(plan, weight_configs(target)), key=area)


def _axes(geo: ConvGeometry) -> dict[str, int]:
    letters = {"K": geo.kernel, "S": geo.stride, "P": geo.padding}
    return {
        k + axis: values[i] for k, values in letters.items() for i, axis in ((1, "H"), (2, "W"))
    }


def _box(size: tuple[int, int, int]) -> dict[str, int]:
    return dict(zip(("BLOCK_I", "BLOCK_H", "BLOCK_W"), size, strict=True))


def _options(config: ConvConfig) -> dict[str, Any]:
    options: dict[str, Any] = {"STAGES": config.stages, "num_warps": config.warps}
    return options if config.registers is None else options | {"maxnreg": config.registers}
