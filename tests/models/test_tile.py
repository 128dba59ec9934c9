"""The generator of tile maps."""

from __future__ import annotations

import pytest
import torch

from fastgan.models import TileGenerator


@pytest.mark.parametrize("choice", ["soft", "hard"])
def test_a_map_chooses_a_tile_at_each_place(choice):
    model = TileGenerator(4, 8, 5, 8, choice=choice)
    z = torch.randn(3, 4)
    maps = model(z)
    shares = (model.logits(z).softmax(1)).detach()
    assert maps.shape == (3, 5, 8, 8) == (3, *model.item_shape)
    assert torch.allclose(((maps + 1) / 2).sum(1), torch.ones(3, 8, 8), atol=1e-5)
    assert maps.argmax(1).equal(shares.argmax(1))
    if choice == "hard":
        assert torch.allclose(maps.detach().abs(), torch.ones_like(maps), atol=1e-6)
    weight = torch.randn_like(maps)
    (gradient,) = torch.autograd.grad((maps * weight).sum(), model.output.bias)
    (expected,) = torch.autograd.grad(
        (2 * model.logits(z).softmax(1) * weight).sum(), model.output.bias
    )
    assert torch.allclose(gradient, expected, rtol=1e-3, atol=1e-4)


def test_pictures_have_a_colour_a_tile():
    model = TileGenerator(4, 8, 7, 8)
    maps = torch.eye(7)[:, :, None, None].expand(7, 7, 8, 8) * 2 - 1
    pictures = model.pictures(maps)
    assert pictures.shape == (7, 3, 8, 8)
    assert len({tuple(p) for p in pictures[:, :, 0, 0].tolist()}) == 7
    assert pictures.abs().max() <= 1


def test_a_choice_that_is_none():
    with pytest.raises(ValueError, match="choice must be one of 'soft', 'hard', got 'sof'"):
        TileGenerator(4, 8, 7, choice="sof")
