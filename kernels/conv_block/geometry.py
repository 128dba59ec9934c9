"""What a convolution's launcher decides before it launches: geometry, tiles, configuration."""

import functools
from dataclasses import dataclass, replace
from math import gcd, lcm, prod
from typing import NamedTuple

import torch

from fastgan.kernels.core.by_shape import by_shape
from fastgan.kernels.core.geometry import DTYPES, INDEX_LIMIT, cdiv

Triple = tuple[int, int, int]


class Target(NamedTuple):
    """What a device limits: bytes of shared memory a block, and registers a thread (None: the
    compiler's choice).
    """

    shared: int = 232448
    registers: int | None = None


# Blackwell's assembler spills a few registers to run more blocks at once, though there the tiles'
# sums lie in tensor memory and shared memory is what limits their number: given all, it does not.
BLACKWELL_REGISTERS = 255


@dataclass(frozen=True)
class ConvConfig:
    """One launch configuration: ``block_m`` output positions by ``block_n`` output channels a
    program, ``block_k`` input channels a step, on ``warps`` warps, loads ``stages`` deep, with at
    most ``registers`` a thread if given.
    """

    block_m: int
    block_n: int
    block_k: int
    warps: int
    stages: int
    registers: int | None = None

    def shared(self, itemsize: int, tensors: int) -> int:
        """Bytes of shared memory of the pipelined loads: ``tensors`` (1 or 2) make one operand."""
        step = tensors * self.block_m + self.block_n
        return self.stages * step * self.block_k * itemsize

    def fitted(self, itemsize: int, tensors: int, limit: int) -> "ConvConfig":
        """This configuration with as many of its stages as shared memory holds, at least 2."""
        stages = self.stages
        while stages > 2 and replace(self, stages=stages).shared(itemsize, tensors) > limit:
            stages -= 1
        return replace(self, stages=stages)


# The configurations that ship: for 16-bit tensors, TF32, and float32 without tensor cores. A step
# is 128 bytes of a position (a cache line). TF32 lacks the largest tile: the data gradient, whose
# epilogue holds a tile of float32 more, would spill registers.
_HALF = (
    ConvConfig(128, 128, 64, 8, 3),
    ConvConfig(64, 128, 64, 8, 3),
    ConvConfig(128, 64, 64, 8, 3),
    ConvConfig(64, 64, 64, 4, 4),
    ConvConfig(128, 32, 32, 4, 3),
)
CONFIGS = {
    "half": _HALF,
    "tf32": tuple(replace(config, block_k=config.block_k // 2) for config in _HALF[1:]),
    "ieee": (ConvConfig(64, 64, 16, 8, 2), ConvConfig(64, 32, 16, 4, 2)),
}
# Of channels that cannot be loaded 16 bytes at a time, each takes an address and a mask of its own:
# registers hold those of a small tile. Its step is 64 bytes of a position.
NARROW = ConvConfig(64, 32, 32, 8, 2)
# Below so many programs the large tile leaves multiprocessors idle (132 on an H100).
FEW_PROGRAMS = 132


@functools.cache
def old_compiler() -> bool:
    """Whether Triton is older than 3.7: its code takes more registers, and some tiles spill."""
    import triton

    return tuple(map(int, triton.__version__.split(".")[:2])) < (3, 7)


def configs(
    dtype: torch.dtype,
    input_precision: str,
    tensors: int = 1,
    target: Target | None = None,
    narrow: bool = False,
) -> list[ConvConfig]:
    """Every configuration that `configure` can return where ``tensors`` make an operand. Two come
    in steps of half as many channels, so that registers hold them. ``narrow``: see ConvGeometry.
    """
    target = target or Target()
    listed = CONFIGS["half" if dtype.itemsize == 2 else input_precision]
    if narrow:
        listed = (replace(NARROW, block_k=64 // dtype.itemsize),)
    elif tensors > 1 and old_compiler():
        listed = tuple(c for c in listed if c.block_m * c.block_n < 128 * 128)
    return [
        replace(
            config, block_k=max(16, config.block_k // tensors), registers=target.registers
        ).fitted(dtype.itemsize, tensors, target.shared)
        for config in listed
    ]


@functools.cache
def device_target(device: torch.device) -> Target:
    if device.type != "cuda":
        return Target()
    from triton.runtime import driver

    index = torch.cuda.current_device() if device.index is None else device.index
    shared = int(driver.active.utils.get_device_properties(index)["max_shared_mem"])
    blackwell = not torch.version.hip and torch.cuda.get_device_capability(index) >= (10, 0)
    return Target(shared, BLACKWELL_REGISTERS if blackwell else None)


@dataclass(frozen=True)
class ConvGeometry:
    """One gather (see ``tiles.py``), of ``images`` images: what is read has ``channels_in``
    and ``size_in``, what is written ``channels_out`` and ``size_out``. Always three axes, D, H and
    W, of which the last ``dims`` count.
    """

    images: int
    channels_in: int
    channels_out: int
    size_in: Triple
    size_out: Triple
    kernel: Triple
    stride: Triple
    padding: Triple
    transposed: bool
    dims: int

    @by_shape
    def reversed(self) -> "ConvGeometry":
        """The geometry of the data gradient."""
        return replace(
            self,
            channels_in=self.channels_out,
            channels_out=self.channels_in,
            size_in=self.size_out,
            size_out=self.size_in,
            transposed=not self.transposed,
        )

    @property
    def taps(self) -> int:
        return prod(self.kernel)

    @property
    def phases(self) -> int:
        return prod(self.stride) if self.transposed else 1

    def narrow(self, itemsize: int) -> bool:
        """Whether some tensor's channels cannot be loaded or stored 16 bytes at a time."""
        return gcd(self.channels_in, self.channels_out, 16) * itemsize < 16

    @property
    def positions(self) -> int:
        """Output positions an image of the largest phase (the first)."""
        if not self.transposed:
            return prod(self.size_out)
        return prod(map(cdiv, self.size_out, self.stride))

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the GEMMs, those with padding included."""
        taps = prod(self.size_out) * self.taps
        if self.transposed:
            taps = prod(map(_gathered, self.size_out, self.kernel, self.stride, self.padding))
        return self.images * taps * self.channels_in * self.channels_out

    def tiles(self, config: ConvConfig, segments: int) -> int:
        """Tiles of rows of one segment and phase: a tile does not cross segments."""
        return cdiv(self.images // segments * self.positions, config.block_m)

    def wide(self, config: ConvConfig) -> bool:
        """Whether offsets inside a tile (counted from its first image) pass 32 bits."""
        spanned = (config.block_m - 1) // max(1, self.positions) + 2
        largest = max(
            prod(self.size_in) * self.channels_in, prod(self.size_out) * self.channels_out
        )
        return (spanned + 1) * largest >= INDEX_LIMIT


def _gathered(size: int, kernel: int, stride: int, padding: int) -> int:
    """Pairs of an output and a tap that meets it, along one axis of a transposed convolution."""
    return sum(cdiv(kernel - (o + padding) % stride, stride) for o in range(size))


def common_segments(*segments: int) -> int:
    """The coarsest split of the batch that respects several; each divides the batch."""
    return lcm(*(max(1, s) for s in segments))


def conv_geometry(
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    transposed: bool,
) -> ConvGeometry:
    """The geometry of a forward pass; weight (C_out, C_in, *k), transposed (C_in, C_out, *k).

    Raises TypeError for a dtype that Triton's kernels do not take, ValueError for shapes that do
    not match or leave no output.
    """
    if x.dtype not in DTYPES:
        raise TypeError(f"x: expected float32, bfloat16 or float16 for Triton, got {x.dtype}")
    dims = x.dim() - 2
    if not 1 <= dims <= 3:
        raise ValueError(f"x: expected (N, C, *spatial) of 1 to 3 dimensions, got {x.dim()}-D")
    lists = {"stride": stride, "padding": padding, "output_padding": output_padding}
    for name, values in lists.items():
        if len(values) != dims:
            raise ValueError(f"{name}: expected {dims} values for x {tuple(x.shape)}, got {values}")
    if min(stride) < 1 or min(padding) < 0 or min(output_padding) < 0:
        raise ValueError(
            f"stride, padding, output_padding: expected positive strides and nothing negative, got "
            f"{stride}, {padding}, {output_padding}"
        )
    channels = (0, 1) if transposed else (1, 0)
    if weight.dim() != x.dim() or weight.shape[channels[0]] != x.shape[1] or not weight.numel():
        raise ValueError(
            f"weight: shape {tuple(weight.shape)} does not take x {tuple(x.shape)}"
            f"{' transposed' if transposed else ''}"
        )
    kernel = tuple(weight.shape[2:])
    size_in = tuple(x.shape[2:])
    if transposed:
        size_out = tuple(
            (size - 1) * s - 2 * p + k + extra
            for size, s, p, k, extra in zip(
                size_in, stride, padding, kernel, output_padding, strict=True
            )
        )
    else:
        size_out = tuple(
            (size + 2 * p - k) // s + 1
            for size, s, p, k in zip(size_in, stride, padding, kernel, strict=True)
        )
    if min(size_out) < 1 or min(size_in) < 1 or min(kernel) < 1:
        raise ValueError(
            f"x: shape {tuple(x.shape)} with kernel {kernel}, stride {stride}, padding {padding} "
            f"leaves an output of {size_out}"
        )
    return ConvGeometry(
        images=x.shape[0],
        channels_in=weight.shape[channels[0]],
        channels_out=weight.shape[channels[1]],
        size_in=_triple(size_in, 1),
        size_out=_triple(size_out, 1),
        kernel=_triple(kernel, 1),
        stride=_triple(stride, 1),
        padding=_triple(padding, 0),
        transposed=transposed,
        dims=dims,
    )


def _triple(values: list[int] | tuple[int, ...], fill: int) -> Triple:
    d, h, w = [fill] * (3 - len(values)) + list(values)
    return d, h, w


def configure(
    geo: ConvGeometry,
    dtype: torch.dtype,
    input_precision: str,
    tensors: int,
    segments: int,
    target: Target,
) -> ConvConfig:
    """The shipped configuration for a geometry: the first, from the largest tile on, whose sides
    the output fills by more than half and of which there are programs for every multiprocessor;
    where there are none, the one of most programs. Of two equal tiles the wider comes first: it
    forms each operand of rows once for more channels.
    """
    narrow = geo.narrow(dtype.itemsize)
    available = configs(dtype, input_precision, tensors, target, narrow)
    rows = geo.images // segments * geo.positions

    def programs(config: ConvConfig) -> int:
        tiles = geo.tiles(config, segments) * cdiv(geo.channels_out, config.block_n)
        return tiles * segments * geo.phases

    fitting = [
        config
        for config in available
        if (config.block_n <= 32 or config.block_n < 2 * geo.channels_out)
        and (config.block_m <= 64 or config.block_m < 2 * rows)
    ]
    busy = [config for config in fitting if programs(config) >= FEW_PROGRAMS]
    return busy[0] if busy else max(fitting or available, key=programs)
