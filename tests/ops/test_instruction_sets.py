"""The narrower loops, which the processor at hand would not choose, give the same results."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fastgan.ops import bias_act, gather_images, norm_act

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def results() -> list[Tensor]:
    """Outputs and gradients of both ops: every dtype, activation and layout, odd sizes too."""
    torch.manual_seed(0)
    found = []
    for dtype in DTYPES:
        for shape in [(4, 16, 9, 7), (6, 5, 3, 3), (8, 33)]:
            for activation in ("leaky_relu", "tanh", "sigmoid"):
                x = torch.randn(shape).to(dtype)
                for as_given in (x, x.movedim(1, -1).contiguous().movedim(-1, 1)):
                    leaf = as_given.detach().requires_grad_()
                    z = norm_act(leaf, None, None, training=True, activation=activation)
                    z = bias_act(z, activation=activation)
                    (g,) = torch.autograd.grad(z, leaf, torch.randn(shape).to(dtype))
                    found += [z.detach(), g]
    # Values that need care when narrowed: subnormals, ties, overflow.
    hard = torch.tensor([6e-8, 3.1e-8, 65504.0, 65519.9, 65520.0, 1.00048828, float("nan"), 1e-40])
    for dtype in (torch.bfloat16, torch.float16):
        found.append(bias_act(hard.repeat(4).reshape(1, 1, 32).to(dtype), activation="identity"))
        scaled = hard.repeat(4).reshape(1, 32, 1).to(dtype)
        found.append(bias_act(scaled, torch.full((32,), 1e-3), activation="identity"))
    return (
        found
        + streamed()
        + small_channel_results()
        + winograd_results()
        + bf16_results()
        + gathered()
        + transposed()
    )


def streamed() -> list[Tensor]:
    """Some elements of outputs that are large enough to be written by non-temporal stores."""
    found = []
    for dtype in DTYPES:
        x = torch.randn((16 << 20) // (64 * 32 * dtype.itemsize), 64, 32).to(dtype)
        found.append(norm_act(x, None, None, training=True).flatten()[::4099].clone())
    return found


def gathered() -> list[Tensor]:
    """All levels, rows that end within a vector, mirrored and not."""
    images = torch.randint(0, 256, (5, 3, 9, 29), dtype=torch.uint8)
    images[0].view(-1)[:256] = torch.arange(256, dtype=torch.uint8)
    images = images.to(memory_format=torch.channels_last)
    index, flips = torch.tensor([0, 4, 0, 2]), torch.tensor([False, True, True, False])
    return [gather_images(images, index, flips, dtype=dtype) for dtype in DTYPES[:3]]


def transposed() -> list[Tensor]:
    """Whole squares, parts of squares, and few rows or columns."""
    run, shapes = torch.ops.fastgan.transpose, [(2, 48, 80), (2, 37, 21), (1, 3, 50), (1, 50, 4)]
    return [run(torch.randn(shape).to(dtype)) for shape in shapes for dtype in DTYPES[:3]]


def small_channel_results() -> list[Tensor]:
    """Convolutions from and to an image: partly filled vectors, odd sizes, several groups."""
    native, found = torch.ops.fastgan, []
    for dtype in DTYPES[:3]:
        for c, wide in ((3, 72), (1, 21), (4, 16)):
            image = torch.randn(2, c, 11, 13).to(dtype)
            other = (
                torch.randn(2, wide, 5, 6).to(dtype).contiguous(memory_format=torch.channels_last)
            )
            weight = (torch.randn(wide, c, 5, 4) / 8).to(dtype)
            place = ((2, 2), (1, 1))
            found += [
                native.small_channel_conv(image, weight, None, *place, (5, 6), 0, 0.2),
                native.small_channel_conv_transpose(
                    other, weight, None, *place, (11, 13), 1, 0.0, True
                ),
                native.small_channel_conv_weight(image, other, (5, 4), *place),
            ]
    return found


def winograd_results() -> list[Tensor]:
    """Winograd convolutions: incomplete tiles, panels and blocks of tiles."""
    native, found = torch.ops.fastgan, []
    for dtype in DTYPES[:3]:
        image, strided, weight = (
            (torch.randn(shape) / 8).to(dtype).contiguous(memory_format=torch.channels_last)
            for shape in ((2, 48, 10, 6), (2, 80, 5, 3), (80, 48, 4, 4))
        )
        found += [
            native.winograd_conv(image, weight),
            native.winograd_conv_transpose(strided, weight),
            native.winograd_conv_weight(image, strided),
        ]
    return found


def bf16_results() -> list[Tensor]:
    """AMX's and AVX512-BF16's convolutions: incomplete panels and tiles, a sample without a
    partner, channels that fill AMX's tiles and some that do not."""
    native, place, found = torch.ops.fastgan, ((2, 1), (1, 1)), []
    for channels, wide in ((48, 80), (96, 160)):
        image, strided, weight = (
            (torch.randn(shape) / 8).bfloat16().contiguous(memory_format=torch.channels_last)
            for shape in ((3, channels, 10, 6), (3, wide, 5, 5), (wide, channels, 4, 4))
        )
        found += [
            native.bf16_conv(image, weight, *place, (5, 5)),
            native.bf16_conv_transpose(strided, weight, *place, (10, 6)),
            native.bf16_conv_transpose(strided, weight.float(), *place, (10, 6)),
            native.bf16_conv_weight(image, strided, (4, 4), *place, torch.float32),
        ]
    return found


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512", "avx512bf16"])
def test_narrower_loops(native: None, isa: str, tmp_path: Path) -> None:
    target = str(tmp_path / "r")
    code = f"import torch, test_instruction_sets as t; torch.save(t.results(), {target!r})"
    here = Path(__file__).resolve().parent
    helpers = str(here.parent / "helpers")
    path = os.pathsep.join([str(here), helpers, *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "FASTGAN_CPU_ISA": isa, "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, cwd=here)
    for own, other in zip(results(), torch.load(tmp_path / "r"), strict=True):
        step = torch.finfo(own.dtype).eps
        torch.testing.assert_close(own, other, rtol=2 * step, atol=20 * step, equal_nan=True)
