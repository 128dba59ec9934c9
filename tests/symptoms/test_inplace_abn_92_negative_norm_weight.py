"""inplace_abn#92: a pretrained norm holds weights that are negative, or zero.

The layer took their absolute values, and divided by them. Right: results and gradients are those of
plain layers, to the second order, of a weight of zero as well.
"""

from __future__ import annotations

import torch
from torch import nn
from ways import Results, Way, assert_right, backward, like

WEIGHTS = torch.tensor([-1.0, 0.0, 2.0, -0.5, 1e-8, -1e-8])


def test_weights_of_any_sign(way: Way) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.LeakyReLU(0.2), nn.Conv2d(6, 4, 3)
    )
    model[1].weight.data.copy_(WEIGHTS)
    nn.init.normal_(model[1].bias)
    images = torch.randn(4, 3, 7, 7)

    def compute(model: nn.Module) -> Results:
        x = like(model, images)
        y = model(x)
        (slope,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
        return backward(model, slope.square().sum() + y.sum(), x=x) | {"y": y, "slope": slope}

    assert_right(way, model, compute)
