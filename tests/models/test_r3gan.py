"""R3GAN's networks: their blocks, their start, and gradients to second order."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fastgan.models import create_model
from fastgan.models.r3gan import ResidualBlock

SHAPE = {"image_size": 8, "channels": 1, "width": 4, "group_width": 4, "blocks": 1}


def test_a_block_is_three_convolutions_beside_the_identity() -> None:
    block = ResidualBlock(4, 2, 4, blocks=3).double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_()
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    conv1, act1, conv2, act2, conv3 = block.body
    assert conv2.groups == 2
    h = F.leaky_relu(F.conv2d(x, conv1.weight, act1.bias), 0.2)
    h = F.leaky_relu(F.conv2d(h, conv2.weight, act2.bias, padding=1, groups=2), 0.2)
    torch.testing.assert_close(block(x), x + F.conv2d(h, conv3.weight))


def test_every_block_starts_as_the_identity() -> None:
    model = create_model("r3gan_discriminator", **SHAPE)
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(model.stages[1](x), x)


def test_signals_start_at_unit_size() -> None:
    generator = create_model("r3gan_generator", image_size=16, channels=3, width=32)
    discriminator = create_model("r3gan_discriminator", image_size=16, channels=3, width=32)
    with torch.no_grad():
        images = generator(torch.randn(256, 64))
        logits = discriminator(torch.randn(256, 3, 16, 16))
    # Interpolation averages neighbours, which takes some of the variance.
    assert 0.2 < images.std() < 1.5
    assert 0.01 < logits.std() < 2


def test_the_penalty_differentiates_twice_through_the_fused_layers() -> None:
    from fastgan.regularizers import r1

    model = create_model("r3gan_discriminator", **SHAPE).double()
    with torch.no_grad():
        for stage in model.stages:
            stage[0].body[4].weight.normal_()
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    penalty = r1(model, x)
    gradients = torch.autograd.grad(penalty, list(model.parameters()), allow_unused=True)
    weight, gradient = model.stages[0][0].body[2].weight, None
    for parameter, found in zip(model.parameters(), gradients, strict=True):
        gradient = found if parameter is weight else gradient
    step = torch.randn_like(weight) * 1e-6
    with torch.no_grad():
        weight.add_(step)
    above = r1(model, x)
    with torch.no_grad():
        weight.sub_(2 * step)
    below = r1(model, x)
    torch.testing.assert_close((above - below) / 2, (gradient * step).sum(), rtol=1e-4, atol=0)


def test_group_width_must_divide_the_inner_widths() -> None:
    with pytest.raises(ValueError, match=r"group_width must divide the inner widths \[8, 16\]"):
        create_model("r3gan_generator", **{**SHAPE, "group_width": 3})
