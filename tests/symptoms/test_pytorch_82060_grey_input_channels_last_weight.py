"""pytorch#82060: grey images in contiguous memory meet a convolution in channels-last memory.

The output was wrong: of a grey image no one can tell by strides which of the two it is.
Right: the values are those of the same layers in one layout, forward and backward.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from ways import Results, Way, assert_right, backward, like

LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels-last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "strides of a slice": lambda x: x.expand(-1, 3, -1, -1).contiguous()[:, 1:2],
}


def layers(kind: str) -> nn.Sequential:
    first = nn.Conv2d(1, 64, 3, padding=1, bias=False)
    if kind == "a norm follows":
        norm = [nn.BatchNorm2d(64), nn.LeakyReLU(0.2)]
        return nn.Sequential(first, *norm, nn.Conv2d(64, 1, 4, 2, 1))
    if kind == "a norm precedes":
        return nn.Sequential(nn.BatchNorm2d(1), nn.LeakyReLU(0.2), first, nn.Tanh())
    return nn.Sequential(first)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["alone", "a norm follows", "a norm precedes"])
def test_grey_images_may_lie_either_way(way: Way, kind: str, layout: str) -> None:
    model = layers(kind).to(memory_format=torch.channels_last)
    images = torch.rand(4, 1, 12, 10)

    def compute(model: nn.Module) -> Results:
        given = like(model, images)
        x: Tensor = LAYOUTS[layout](given)
        y = model(x)
        return backward(model, y.pow(3).sum(), x=given) | {"y": y}

    assert_right(way, model, compute)
