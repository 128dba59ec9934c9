"""Moving whole pixels, against numpy."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from fastgan.augment._pixels import blit, extend, shift, take


def _numbers(n: int, channels: int, height: int, width: int) -> Tensor:
    count = n * channels * height * width
    return torch.arange(count, dtype=torch.float64).view(n, channels, height, width)


def _moved(image: Tensor, down: int, right: int, mode: str) -> Tensor:
    """One image moved, by padding and cutting; no move beyond the image's sides."""
    height, width = image.shape[1:]
    padded = np.pad(image.numpy(), [(0, 0), (height, height), (width, width)], mode=mode)
    rows, columns = height - down, width - right
    return torch.from_numpy(padded[:, rows : rows + height, columns : columns + width].copy())


@pytest.mark.parametrize(("height", "width"), [(5, 5), (4, 4), (4, 6)])
def test_blit(height: int, width: int) -> None:
    turns_of = range(4) if height == width else (0, 2)
    cases = list(product((False, True), turns_of, (-3, 0, 4), (-2, 0, 1)))
    images = _numbers(len(cases), 2, height, width)
    flip, turns, down, right = (torch.tensor(column) for column in zip(*cases, strict=True))
    actual = blit(images, flip, turns, down, right)
    for i, (flipped, turned, d, r) in enumerate(cases):
        expected = images[i].flip(2) if flipped else images[i]
        expected = _moved(torch.rot90(expected, turned, (1, 2)), d, r, "symmetric")
        assert torch.equal(actual[i], expected), cases[i]


def test_flips_and_turns_are_undone_by_their_inverses() -> None:
    images, none = torch.randn(8, 3, 6, 6), torch.zeros(8, dtype=torch.int64)
    flip, turns = torch.arange(8) >= 4, torch.arange(8) % 4
    changed = blit(images, flip, turns, none, none)
    # Unflipping comes last, so the turn is undone on its own first.
    back = blit(changed, flip & False, (4 - turns) % 4, none, none)
    assert torch.equal(blit(back, flip, none, none, none), images)


def test_shift_brings_in_zeros() -> None:
    cases = list(product((-4, -1, 0, 3, 9), (-6, 0, 2)))
    images = 1 + _numbers(len(cases), 2, 4, 6)
    down, right = (torch.tensor(column) for column in zip(*cases, strict=True))
    actual = shift(images, down, right)
    for i, (d, r) in enumerate(cases):
        expected = _moved(images[i], min(d, 4), r, "constant")
        assert torch.equal(actual[i], expected), cases[i]


@pytest.mark.parametrize("margin", [0, 2, 5, 11])
@pytest.mark.parametrize("dim", [2, 3])
def test_extend(margin: int, dim: int) -> None:
    images = _numbers(2, 2, 3, 4)
    widths = [(margin, margin) if d == dim else (0, 0) for d in range(4)]
    expected = torch.from_numpy(np.pad(images.numpy(), widths, mode="symmetric"))
    assert torch.equal(extend(images, margin, dim), expected)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_take_gives_channels_last(memory_format: torch.memory_format) -> None:
    images = torch.randn(2, 3, 4, 5).to(memory_format=memory_format)
    rows, columns = torch.randint(4, (2, 4, 1)), torch.randint(5, (1, 1, 5))
    taken = take(images, rows, columns)
    assert taken.is_contiguous(memory_format=torch.channels_last)
    expected = images[torch.arange(2)[:, None, None], :, rows, columns].permute(0, 3, 1, 2)
    assert torch.equal(taken, expected)


def test_gradients() -> None:
    images = torch.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    flip, turns = torch.tensor([True, False]), torch.tensor([3, 2])
    down, right = torch.tensor([2, -1]), torch.tensor([0, 1])
    for move in (
        lambda x: blit(x, flip, turns, down, right).square(),
        lambda x: shift(x, down, right).square(),
    ):
        assert torch.autograd.gradcheck(move, (images,))
        assert torch.autograd.gradgradcheck(move, (images,))
