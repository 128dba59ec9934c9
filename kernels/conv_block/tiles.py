"""Device functions of the implicit-GEMM convolutions: rows, taps, operands.

A convolution is a gather: an output position q and a tap j name one input position. Rows of the
GEMM are output positions (image, d, h, w), flat; its columns are output channels; it sums over taps
and input channels. There are always three axes, with size, kernel and stride 1 where the tensor has
fewer, and ``DIMS`` (1, 2 or 3) drops the arithmetic of those. Memory is channels-last: element c of
position p stands at ``p * C + c``.

    direct       output q reads input q * stride - padding + j, with weight tap j
    transposed   output q * stride + e reads input q + (e + padding) // stride - j, with weight tap
                 (e + padding) % stride + j * stride, 0 <= e < stride

The second is the sub-pixel form of a transposed convolution: each of its stride^d phases e is an
ordinary convolution with every stride-th tap. Either is the data gradient of the other.

An operand is formed as it is loaded (its prologue):

    input      z = act((x - center) * scale + shift), or act(x), or x
    gradient   dy = (g + k1 * (y - center) + k2) * act'(y), act' from the output y; or part of it

Three values a channel: rows (segments, 3, C) float32 of (center, scale, shift) or (center, k1, k2).
Positions outside the tensor give 0, after the activation.
"""

import triton
import triton.language as tl

from fastgan.kernels.core.device import activate, activation_grad_from_output

# ACT of the kernels: the op's codes, and this for "nothing to do" (leaky_relu with slope 1).
IDENTITY = -1


@triton.jit
def axis_phase(e, size, padding, KERNEL: tl.constexpr, STRIDE: tl.constexpr):
    """(positions, offset, first tap, taps) of phase ``e`` along one axis of a transposed
    convolution with ``size`` outputs: output q * STRIDE + e reads input q + offset - j, j < taps.
    """
    positions = (size - e + STRIDE - 1) // STRIDE
    tap = (e + padding) % STRIDE
    taps = (KERNEL - tap + STRIDE - 1) // STRIDE
    return positions, (e + padding) // STRIDE, tap, taps


@triton.jit
def unravel(row, D, H, W, DIMS: tl.constexpr):
    """(image, d, h, w) of flat positions in images of D x H x W."""
    w = row % W
    row = row // W
    h = tl.zeros_like(row)
    d = tl.zeros_like(row)
    if DIMS >= 2:
        h = row % H
        row = row // H
    if DIMS == 3:
        d = row % D
        row = row // D
    return row, d, h, w


@triton.jit
def ravel(image, d, h, w, D, H, W, DIMS: tl.constexpr):
    """The reverse of `unravel`."""
    if DIMS == 3:
        image = image * D + d
    if DIMS >= 2:
        image = image * H + h
    return image * W + w


@triton.jit
def inside(d, h, w, D, H, W, DIMS: tl.constexpr):
    """Whether a position lies within D x H x W."""
    within = (w >= 0) & (w < W)
    if DIMS >= 2:
        within &= (h >= 0) & (h < H)
    if DIMS == 3:
        within &= (d >= 0) & (d < D)
    return within


@triton.jit
def round_operand(v, dtype: tl.constexpr, PRECISION: tl.constexpr):
    """A float32 tile as a matrix operand. Tensor cores cut float32 off to TF32's 10 bits, a bias of
    half a unit; so it is rounded to nearest here, ties away from 0, as by cvt.rna.tf32.
    """
    if PRECISION == "tf32":
        bits = (v.to(tl.int32, bitcast=True) + 0x1000) & -0x2000
        v = tl.where(v == v, bits.to(tl.float32, bitcast=True), v)
    return v.to(dtype)


@triton.jit
def load_rows(rows_ptr, segment, channels, channel, mask):
    """The three values of each channel of a segment; 0 where masked."""
    start = rows_ptr + segment * (3 * channels) + channel
    first = tl.load(start, mask, other=0.0)
    second = tl.load(start + channels, mask, other=0.0)
    third = tl.load(start + 2 * channels, mask, other=0.0)
    return first, second, third


@triton.jit
def apply_act(u, slope, ACT: tl.constexpr):
    """`activate`, or u itself where ACT is IDENTITY."""
    if ACT >= 0:
        u = activate(u, slope, ACT)
    return u


@triton.jit
def normalise(x, center, scale, shift):
    """(x - center) * scale + shift: centred first, so that |center| >> 1 / scale keeps its digits.
    The backward pass calls it too: its u falls on the same side of 0.
    """
    return (x - center[None, :]) * scale[None, :] + shift[None, :]


@triton.jit
def load_input(
    x_ptr,
    offsets,
    mask,
    valid,
    rows_ptr,
    segment,
    channels,
    channel,
    channel_mask,
    slope,
    ACT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A tile of z in x's dtype, ready for tl.dot. ``mask`` guards the loads; ``valid`` (rows) tells
    positions from padding. Channels past the last are loaded as 0 and may come out as act(0): the
    other operand is 0 there.
    """
    x = tl.load(x_ptr + offsets, mask, other=0.0)
    if ACT >= 0 or rows_ptr is not None:
        u = x.to(tl.float32)
        if rows_ptr is not None:
            center, scale, shift = load_rows(rows_ptr, segment, channels, channel, channel_mask)
            u = normalise(u, center, scale, shift)
        z = tl.where(valid[:, None], apply_act(u, slope, ACT), 0.0)
        x = round_operand(z, x.dtype, PRECISION)
    return x


@triton.jit
def load_gradient(
    g_ptr,
    y_ptr,
    offsets,
    mask,
    valid,
    rows_ptr,
    segment,
    channels,
    channel,
    channel_mask,
    slope,
    ACT: tl.constexpr,
):
    """A tile of dy in float32, or g as it is where there is nothing to apply (then y is not read).
    Arguments as of `load_input`.
    """
    g = tl.load(g_ptr + offsets, mask, other=0.0)
    if ACT >= 0 or rows_ptr is not None:
        y = tl.load(y_ptr + offsets, mask, other=0.0).to(tl.float32)
        g = g.to(tl.float32)
        if rows_ptr is not None:
            center, k1, k2 = load_rows(rows_ptr, segment, channels, channel, channel_mask)
            g += normalise(y, center, k1, k2)
        if ACT >= 0:
            g *= activation_grad_from_output(y, slope, ACT)
        g = tl.where(valid[:, None], g, 0.0)
    return g
