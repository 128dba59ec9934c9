"""pytorch#158232, #65766: under one autocast, a pass without gradients comes before one with them.

Autocast keeps the weights that it rounded in the first pass, which have no history: the second
pass's weights got no gradient. Right: they get the gradients of the pass alone, in float32.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from ways import Way


def test_weights_have_gradients_after_a_pass_without(way: Way) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(16, 16, 3, 1, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(16, 3, 4, 2, 1),
        nn.Tanh(),
    )
    images = torch.randn(4, 3, 8, 8)
    found = []
    for before in (True, False):
        fused = way(copy.deepcopy(model))
        with torch.autocast("cpu", torch.bfloat16):
            if before:
                with torch.no_grad():
                    fused(images)
            y = fused(images)
        y.float().square().sum().backward()
        found.append([p.grad for p in fused.parameters()])
    for own, alone in zip(*found, strict=True):
        assert own.dtype is torch.float32
        assert torch.equal(own, alone)
