"""The CUDA kernels of the small-channel convolutions, run on the host, against float64 PyTorch."""

from __future__ import annotations

import ctypes
import random
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from tolerance import assert_as_exact, within

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


class Struct(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int) for name in ("dtype", "wide_packs")),
        *((name, ctypes.c_int) for name in ("batch", "channels", "height", "width")),
        *((name, ctypes.c_int) for name in ("channels_last", "wide", "rows", "columns")),
        *((name, ctypes.c_int * 2) for name in ("kernel", "stride", "padding")),
        ("kind", ctypes.c_int),
        ("slope", ctypes.c_float),
        ("sms", ctypes.c_int),
    )


@dataclass(frozen=True)
class Problem:
    """A convolution from an image of `size` to a wide tensor of `positions`, or the reverse."""

    dtype: torch.dtype
    batch: int
    channels: int
    size: tuple[int, int]
    wide: int
    positions: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    channels_last: bool = True
    kind: int = 0
    slope: float = 0.2
    sms: int = 3

    def struct(self) -> Struct:
        return Struct(
            DTYPES[self.dtype], self.wide % (16 // self.dtype.itemsize) == 0,
            self.batch, self.channels, *self.size, self.channels_last,
            self.wide, *self.positions, self.kernel, self.stride, self.padding,
            self.kind, self.slope, self.sms,
        )  # fmt: skip

    def lay(self, image: torch.Tensor) -> torch.Tensor:
        return image.permute(0, 2, 3, 1).contiguous() if self.channels_last else image

    def unlay(self, image: torch.Tensor) -> torch.Tensor:
        return image.permute(0, 3, 1, 2) if self.channels_last else image

    def act(self, y: torch.Tensor) -> torch.Tensor:
        return (F.leaky_relu(y, self.slope), torch.tanh(y), torch.sigmoid(y))[self.kind]


def draw(seed: int, dtype: torch.dtype) -> Problem:
    """Any kernel, stride and padding; wide channels over and under a block's 64."""
    r = random.Random(seed)
    kernel = (r.randint(1, 7), r.randint(1, 7))
    stride = (r.randint(1, 4), r.randint(1, 4))
    padding = (r.randint(0, 3), r.randint(0, 3))
    positions = tuple(r.randint(1, 9) + 2 * p for p in padding)
    size = tuple(
        max(1, (q - 1) * s - 2 * p + k + r.randint(0, s - 1))
        for q, s, p, k in zip(positions, stride, padding, kernel, strict=True)
    )
    positions = tuple(
        (n + 2 * p - k) // s + 1 for n, s, p, k in zip(size, stride, padding, kernel, strict=True)
    )
    if min(positions) < 1:
        return draw(seed + 1000, dtype)
    return Problem(
        dtype, r.choice([1, 3]), r.randint(1, 4), size, r.choice([3, 16, 64, 72]), positions,
        kernel, stride, padding, r.random() < 0.7, r.randint(0, 2),
    )  # fmt: skip


def check(emulator, p: Problem) -> None:
    g = torch.Generator().manual_seed(5)
    image = torch.randn(p.batch, p.channels, *p.size, generator=g).to(p.dtype)
    wide = torch.randn(p.batch, p.wide, *p.positions, generator=g).to(p.dtype)
    weight = (torch.randn(p.wide, p.channels, *p.kernel, generator=g) / 8).to(p.dtype)
    at = {"stride": p.stride, "padding": p.padding}

    laid, laid_wide = p.lay(image), wide.permute(0, 2, 3, 1).contiguous()
    bias = torch.randn(p.wide, generator=g)
    found = emulator.blank(laid_wide)
    assert emulator.call("small_channel_conv", p, laid, weight, bias, found).launches == 1
    truth = p.act(F.conv2d(image.double(), weight.double(), bias.double(), **at))
    own = p.act(F.conv2d(image, weight, bias.to(p.dtype), **at))
    assert_as_exact("conv", found.permute(0, 3, 1, 2), own, truth)

    bias = torch.randn(p.channels, generator=g)
    found = emulator.blank(laid)
    assert emulator.call("small_channel_transpose", p, laid_wide, weight, bias, found).launches == 1
    extra = tuple(
        n - ((q - 1) * s - 2 * d + k)
        for n, q, s, d, k in zip(p.size, p.positions, p.stride, p.padding, p.kernel, strict=True)
    )
    inputs = (wide, weight, bias.to(p.dtype))
    transposed = {**at, "output_padding": extra}
    truth = p.act(F.conv_transpose2d(wide.double(), weight.double(), bias.double(), **transposed))
    own = p.act(F.conv_transpose2d(*inputs, **transposed))
    assert_as_exact("transpose", p.unlay(found), own, truth)

    found = emulator.blank(weight.float())
    assert emulator.call("small_channel_weight", p, laid, laid_wide, found).launches in (1, 2)
    truth, own = (
        torch.nn.grad.conv2d_weight(image.to(d), weight.shape, wide.to(d), **at)
        for d in (torch.float64, torch.float32)
    )
    assert_as_exact("weight", found, own, truth)


@pytest.mark.parametrize("seed", range(20))
def test_any_geometry(emulator, seed):
    check(emulator, draw(seed, list(DTYPES)[seed % 3]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "padding", "sms"),
    [(3, 4, 2, 1, 1), (3, 3, 1, 1, 40), (4, 7, 1, 3, 2)],
)
def test_layers_in_use(emulator, dtype, channels, kernel, stride, padding, sms):
    """DCGAN's layers, a 3x3 one, and the most taps there are (two tiles of them)."""
    positions = (12 + 2 * padding - kernel) // stride + 1
    problem = Problem(
        dtype, 2, channels, (12, 12), 72, (positions,) * 2, (kernel,) * 2, (stride,) * 2,
        (padding,) * 2, sms=sms,
    )  # fmt: skip
    check(emulator, problem)


def test_weight_gradient_in_chunks(emulator):
    """Several blocks' partial sums are merged by a second launch; one block's are the result."""
    for size, launches in ((4, 1), (8, 2)):
        square = (size, size)
        p = Problem(torch.float32, 2, 3, square, 64, square, (3, 3), (1, 1), (1, 1))
        image, wide = torch.randn(2, *square, 3), torch.randn(2, *square, 64)
        found = emulator.blank(torch.empty(64, 3, 3, 3))
        assert emulator.call("small_channel_weight", p, image, wide, found).launches == launches
        images, wides = (t.permute(0, 3, 1, 2) for t in (image, wide))
        truth = torch.nn.grad.conv2d_weight(images, (64, 3, 3, 3), wides, padding=1)
        torch.testing.assert_close(found, truth, **within(torch.float32, 10, 100))
