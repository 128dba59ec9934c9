"""Copies from one memory format to the other: the bits of PyTorch's copies."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastgan.ops import backend
from fastgan.ops.core.memory_format import channels_last, contiguous, dense_like, is_channels_last

MATRICES = [
    (1, 1, 1), (2, 3, 5), (1, 2, 77), (2, 4, 64), (1, 100, 3), (3, 16, 16), (2, 17, 33),
    (1, 15, 15), (3, 64, 9), (2, 9, 64), (2, 70, 130), (2, 300, 7), (0, 4, 4), (2, 0, 3),
]  # fmt: skip
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int32]
SHAPES = [(8, 64, 16, 16), (64, 3, 16, 8), (4, 1, 64, 64), (33, 130, 1, 1), (2, 24, 6, 10, 8)]
counted = torch.profiler.ProfilerActivity.CPU


def operators(run: Any) -> set[str]:
    with torch.profiler.profile(activities=[counted]) as profile:
        run()
    return {event.key for event in profile.key_averages()}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", MATRICES, ids=str)
def test_matrices(native: None, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.randint(-(1 << 15), 1 << 15, shape, dtype=torch.int32)
    # Any bits, those of NaN among them.
    x = x.view(dtype) if dtype.itemsize == 4 else x.to(torch.int16).view(dtype)
    found = torch.ops.fastgan.transpose(x)
    bits = torch.int32 if dtype.itemsize == 4 else torch.int16
    assert found.is_contiguous()
    assert torch.equal(found.view(bits), x.mT.contiguous().view(bits))


def test_what_is_no_matrix_is_refused(native: None) -> None:
    for x, told in [
        (torch.zeros(3, 4), "contiguous"),
        (torch.zeros(2, 3, 4).mT, "contiguous"),
        (torch.zeros(2, 3, 4, dtype=torch.float64), "2 or 4 bytes, got 8"),
    ]:
        with pytest.raises(RuntimeError, match=told):
            torch.ops.fastgan.transpose(x)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_there_and_back(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    there = channels_last(x)
    assert is_channels_last(there)
    assert there.stride() == x.movedim(1, -1).contiguous().movedim(-1, 1).stride()
    assert torch.equal(there, x)
    back = contiguous(there)
    assert back.is_contiguous()
    assert torch.equal(back, x)
    assert dense_like(there.bfloat16(), x).is_contiguous()
    assert is_channels_last(dense_like(x.bfloat16(), there))


def test_the_same_bits_on_any_number_of_threads(native: None) -> None:
    x, threads = torch.randn(5, 130, 70, 31), torch.get_num_threads()
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            assert torch.equal(contiguous(channels_last(x)), x)
    finally:
        torch.set_num_threads(threads)


def test_which_copies_are_ours(native: None) -> None:
    x = torch.randn(2, 64, 16, 16)
    assert "fastgan::transpose" in operators(lambda: channels_last(x))
    assert "fastgan::transpose" in operators(lambda: contiguous(channels_last(x)))
    assert "fastgan::transpose" not in operators(lambda: channels_last(x[:1, :8]))
    assert "fastgan::transpose" not in operators(lambda: channels_last(x.double()))
    assert "fastgan::transpose" not in operators(lambda: channels_last(x.mT))
    assert "fastgan::transpose" not in operators(lambda: channels_last(nn.Parameter(x)))
    with backend("reference"):
        assert "fastgan::transpose" not in operators(lambda: channels_last(x))
    with torch.no_grad():
        assert "fastgan::transpose" in operators(lambda: channels_last(nn.Parameter(x)))


def test_a_copy_with_a_gradient_is_differentiable() -> None:
    x = torch.randn(2, 8, 16, 24, requires_grad=True)
    y = contiguous(channels_last(x) * 2)
    (g,) = torch.autograd.grad(y.square().sum(), x)
    torch.testing.assert_close(g, 8 * x.detach())


def test_negative_views_are_copied_by_their_values() -> None:
    x: Tensor = torch.complex(torch.zeros(2, 32, 16, 16), torch.randn(2, 32, 16, 16)).conj().imag
    assert x.is_neg()
    assert torch.equal(channels_last(x.contiguous()), x)
    assert torch.equal(
        channels_last(torch._neg_view(torch.ones(2, 32, 16, 16))), -torch.ones(2, 32, 16, 16)
    )
