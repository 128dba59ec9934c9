"""What generators are given of images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastgan.data.conditions import CONDITIONS, edges, grey, lower, with_hole


def images(count: int = 3, channels: int = 3, height: int = 16, width: int = 24) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.rand(count, channels, height, width, generator=rng) * 2 - 1


def test_grey_is_pillows_luma():
    pixels = torch.randint(0, 256, (16, 24, 3), dtype=torch.uint8)
    luma = torch.tensor(np.array(Image.fromarray(pixels.numpy()).convert("L"))).flatten()
    found = grey(pixels.permute(2, 0, 1)[None].float() / 127.5 - 1)
    assert ((found.flatten() + 1) * 127.5 - luma).abs().max() <= 0.51
    assert torch.equal(grey(found), found)


@pytest.mark.parametrize("name", CONDITIONS)
def test_nothing_comes_from_the_host(name: str, no_host_sync: Any) -> None:
    """A CUDA graph that is being recorded would refuse it."""
    images = torch.rand(2, 3, 16, 16)
    with no_host_sync():
        CONDITIONS[name](images)


def test_edges_are_where_the_grey_steps():
    step = torch.full((1, 3, 8, 8), -1.0)
    step[..., 4:] = 1.0
    found = edges(step)[0, 0]
    assert found[:, 3:5].eq(1).all()
    assert found[:, [0, 1, 2, 5, 6, 7]].lt(-0.99).all()


@pytest.mark.parametrize("factor", [2, 4])
def test_lower_is_pillows_bicubic(factor):
    pixels = torch.randint(0, 256, (16, 24), dtype=torch.uint8)
    small = Image.fromarray(pixels.numpy()).resize((24 // factor, 16 // factor), Image.BICUBIC)
    expected = torch.tensor(np.array(small))
    found = lower(pixels[None, None].float() / 127.5 - 1, factor)[0, 0]
    assert ((found + 1) * 127.5 - expected).abs().max() < 1.5  # Pillow rounds twice


def test_lower_refuses_sides_that_leave_a_rest():
    with pytest.raises(ValueError, match="multiples of 4, got 16x18"):
        lower(images(width=18), 4)


@pytest.mark.parametrize("name", ["box", "free-form"])
def test_holes_are_blank_and_all_else_is_the_image(name):
    torch.manual_seed(1)
    real = images()
    found = CONDITIONS[name](real)
    mask = found[:, 3:]
    assert mask.unique().tolist() == [0, 1]
    assert torch.equal(found, with_hole(real, mask))
    assert found[:, :3].masked_select(mask.bool()).eq(0).all()
    known = ~mask.bool().expand_as(real)
    assert torch.equal(found[:, :3][known], real[known])
    shares = mask.mean((1, 2, 3))
    assert (shares > 0.05).all()
    assert (shares < 0.8).all()
    assert len({tuple(m.flatten().tolist()) for m in mask}) == 3  # each has its own
    if name == "box":
        assert shares.eq(0.25).all()
