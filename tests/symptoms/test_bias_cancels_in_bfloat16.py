"""A bfloat16 convolution whose bias cancels its sums: rounded before the bias, signs would flip."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from fastgan.nn import FusedSequential


@torch.no_grad()
def test_signs_and_errors_are_those_of_the_sum_with_its_bias() -> None:
    layers = nn.Sequential(nn.Conv2d(32, 64, 3, padding=1), nn.LeakyReLU(0.2)).bfloat16()
    x = (1 + 0.3 * torch.randn(8, 32, 12, 12)).bfloat16()
    layers[0].weight += 0.05
    layers[0].bias.zero_()
    layers[0].bias -= layers[0](x).mean((0, 2, 3))
    exact = copy.deepcopy(layers).double()(x.double())

    def rms(y: Tensor) -> float:
        return float((y.double() - exact).square().mean().sqrt() / exact.square().mean().sqrt())

    def flipped(y: Tensor) -> int:
        return int(((y > 0) != (exact > 0)).sum())

    own, theirs = FusedSequential(*layers)(x), layers(x)
    assert rms(own) <= 2 * rms(theirs)
    assert flipped(own) <= 2 * flipped(theirs)
