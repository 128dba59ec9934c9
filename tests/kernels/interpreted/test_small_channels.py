"""Triton's convolutions from and to an image of few channels, in its interpreter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from convolutions import channels_last, check, passes, small_channel_case
from tolerance import within
from torch import Tensor

from fastgan.kernels.small_channels import one_output, plan
from fastgan.ops import conv
from fastgan.ops.conv.algorithms import force
from fastgan.ops.conv.geometry import Geometry, output_shape
from fastgan.ops.core.activation import IDENTITY, LEAKY_RELU, SIGMOID, TANH

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
HALVED = Geometry((2, 2), (1, 1), (0, 0), False)
DOUBLED = HALVED._replace(transposed=True)


@pytest.fixture(autouse=True)
def _by_triton(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is not written stays NaN. A weight gradient has few slices, of several boxes."""
    monkeypatch.setattr(plan, "PROGRAMS", 4)
    torch.use_deterministic_algorithms(True)
    with force(small_channels=False, small_channels_triton=True):
        yield
    torch.use_deterministic_algorithms(False)


def case(
    seed: int, dtype: torch.dtype = torch.float16
) -> tuple[Tensor, Tensor, Tensor | None, Geometry]:
    """x, weight, bias and geometry of the `small_channel_case` of a seed."""
    torch.manual_seed(seed)
    x_shape, weight_shape, geometry = small_channel_case(seed)
    weight = torch.randn(weight_shape).to(dtype)
    bias = torch.randn(output_shape(x_shape, weight_shape, geometry)[1]) if seed % 3 else None
    return channels_last(torch.randn(x_shape).to(dtype)), weight, bias, geometry


@pytest.mark.parametrize("seed", [0, 2, 3, 4, 5, 6, 7])
def test_kernels(seed: int) -> None:
    """Kernels to 7, strides to 4, odd sizes, from and to the image, direct and transposed."""
    activation, slope = [(LEAKY_RELU, 1.0), (LEAKY_RELU, 0.2), (TANH, 0), (SIGMOID, 0)][seed % 4]
    check(*case(seed, DTYPES[seed % 3]), activation, slope)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_layers_of_dcgan(dtype: torch.dtype) -> None:
    """From RGB and to grey, odd sizes; channels that fill a tile and a part of another."""
    weight = (torch.randn(72, 3, 4, 4) / 16).to(dtype)
    x = torch.randn(2, 3, 10, 7).to(dtype)
    check(channels_last(x), weight, None, HALVED, LEAKY_RELU, 0.2)
    x, weight = torch.randn(2, 72, 5, 3).to(dtype), weight[:, :1].contiguous()
    check(channels_last(x), weight, torch.randn(1), DOUBLED, TANH, 0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_layers_of_one_position(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """A map of one channel is a weighted sum, of several steps, else a product."""
    monkeypatch.setattr(one_output, "ALONG_ROW", (2, 32))
    monkeypatch.setattr(one_output, "DOWN_COLUMNS", (2, 16))
    whole = HALVED._replace(padding=(0, 0))
    for channels, calls in ((1, 2), (5, 0)):
        x = channels_last(torch.randn(3, 6, 3, 4).to(dtype))
        weight, bias = torch.randn(channels, 6, 3, 4).to(dtype), torch.randn(channels)
        with counted(monkeypatch) as launches, force(product=True):
            check(x, weight, bias, whole, TANH, 0)
            z = channels_last(torch.randn(3, channels, 1, 1).to(dtype))
            check(z, weight, None, whole._replace(transposed=True), *IDENTITY)
        assert len(launches) == 2 * calls


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """The weighted sums within: whether each goes down columns."""
    launches, run = [], one_output.weighted_sum

    def counting(*args: Any) -> Tensor:
        launches.append(args[3])
        return run(*args)

    with monkeypatch.context() as patch:
        patch.setattr(one_output, "weighted_sum", counting)
        yield launches


def test_a_weight_of_any_layout_and_dtype_gives_the_same_bits() -> None:
    x, weight = channels_last(torch.randn(2, 24, 9, 5).half()), torch.randn(24, 3, 4, 4).half()
    dy = channels_last(torch.randn(2, 3, 18, 10).half())
    want = passes(x, weight, dy, DOUBLED)
    for other in (channels_last(weight), weight.mT.contiguous().mT):
        assert all(map(torch.equal, passes(x, other, dy, DOUBLED), want))
    found = passes(x, weight.float(), dy, DOUBLED)
    assert found[2].dtype is torch.float32
    assert all(torch.equal(a.half(), b) for a, b in zip(found, want, strict=True))


def test_what_no_tap_reads_may_be_anything() -> None:
    """The last row and column, which the stride drops."""
    x, weight = channels_last(torch.randn(2, 3, 9, 9)), torch.randn(16, 3, 2, 2)
    geometry = HALVED._replace(padding=(0, 0))
    dy = channels_last(torch.randn(2, 16, 4, 4))
    x[:, :, 8] = x[:, :, :, 8] = 0
    want = passes(x, weight, dy, geometry)
    x[:, :, 8] = x[:, :, :, 8] = torch.inf
    assert all(map(torch.equal, passes(x, weight, dy, geometry), want))


def test_the_weight_gradient_is_summed_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one and in several, some of them shorter, of boxes of several images."""
    x, weight = channels_last(torch.randn(33, 3, 6, 6)).half(), torch.randn(16, 3, 4, 4)
    dy = channels_last(torch.randn(33, 16, 3, 3)).half()
    want = torch.nn.grad.conv2d_weight(x.double(), weight.shape, dy.double(), 2, 1)
    for programs, slices in ((1, (1, 9)), (2, (2, 5)), (264, (9, 1))):
        monkeypatch.setattr(plan, "PROGRAMS", programs)
        assert plan.weight_slices(9, 1) == slices
        found = conv.backward_weight(dy, x, weight, HALVED)
        torch.testing.assert_close(found.double(), want, **within(torch.float32, 10, 100))


def test_nothing_is_a_batch() -> None:
    x, weight = channels_last(torch.randn(0, 3, 8, 8)), torch.randn(16, 3, 4, 4)
    assert conv.forward(x, weight, None, HALVED, *IDENTITY).shape == (0, 16, 4, 4)
