"""inplace_abn#155, pytorch#1866, flash-attention#355: a layer is followed by a sum alone.

The gradient of a sum is one number under strides of zero, which kernels took for a whole tensor.
Right: gradients of any strides give what their copies give.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from ways import Results, Way, assert_right, backward, like

SUMS = {
    "of all": lambda y: y.sum(),
    "of images": lambda y: y.sum((1, 2, 3)).square().sum(),
    "of channels": lambda y: y.sum((0, 2, 3)).square().sum(),
    "of a transpose": lambda y: y.transpose(2, 3).flatten(1).pow(3).sum(),
}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("kind", SUMS)
def test_gradients_under_strides_of_zero(way: Way, kind: str, layout: torch.memory_format) -> None:
    model = nn.Sequential(
        nn.Conv2d(5, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(8, 5, 4, 2, 1),
        nn.Tanh(),
    ).to(memory_format=layout)
    images = torch.randn(2, 5, 8, 6).contiguous(memory_format=layout)

    def compute(model: nn.Module) -> Results:
        x = like(model, images)
        loss: Tensor = SUMS[kind](model(x * 2))
        return backward(model, loss, x=x)

    assert_right(way, model, compute)
