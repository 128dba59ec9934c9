"""The weight as the products read it: torch's own where that will do, else a copy (see `kept`)."""

from math import gcd

import torch

from fastgan.kernels.conv_block.forward import pack_into
from fastgan.kernels.conv_block.geometry import ConvGeometry
from fastgan.kernels.core.geometry import is_channels_last
from fastgan.kernels.core.packed import kept

Tensor = torch.Tensor


def is_packed(dtype: torch.dtype) -> bool:
    """Whether products of a dtype read a weight with the channels that they sum over innermost,
    whichever these are, and rounded.
    """
    return dtype is torch.float32


def as_read(weight: Tensor, geo: ConvGeometry, dtype: torch.dtype) -> Tensor:
    """The weight (A, B, *kernel) with the memory of the matrix that the product of a geometry
    reads: (A, taps * B), or packed (channels out, taps * channels in).

    Of float32 a copy even where the memory is right: the matrix unit would cut the weight off to
    TF32, which makes every product smaller, by up to 2^-10 and 2^-11.5 or so on average. With the
    other operand cut off as well, as a gradient that another pass wrote is, that would be twice the
    error of operands that are rounded. So the gather reads it rounded, too, and a weight of
    whatever layout gives the same bits.
    """
    if is_packed(dtype):
        rows = 1 if geo.transposed else 0
        return kept(weight, ("rows", rows, dtype), lambda: _packed(weight, rows))
    if weight.dtype is dtype and is_channels_last(weight) and not weight.data_ptr() % 16:
        return weight

    def copied() -> Tensor:
        last = weight.detach().movedim(1, -1)
        return torch.empty(last.shape, dtype=dtype, device=last.device).copy_(last)

    return kept(weight, ("matrix", dtype), copied)


def _packed(weight: Tensor, rows: int) -> Tensor:
    """float32, rounded to TF32: (channels of an axis, taps, channels of the other)."""
    out, summed = weight.shape[rows], weight.shape[1 - rows]
    packed = weight.new_empty((out, weight[0, 0].numel(), summed), dtype=torch.float32)
    blocks = gcd(out, 16), gcd(summed, 32)
    pack_into(packed, weight.detach(), (rows, 1 - rows), *blocks, "tf32", taps_first=False)
    return packed
