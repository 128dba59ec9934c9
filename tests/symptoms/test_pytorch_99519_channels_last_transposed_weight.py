"""pytorch#99519: a transposed convolution of one input channel whose weight is channels-last.

Its result was whatever stood in memory: with one channel the weight's strides tell two layouts.
Right: the layout of a weight changes no value, forward or backward.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from ways import Results, Way, assert_right, backward, like

from fastgan.ops import norm_act_conv

KERNELS = {5: (5, 1, 0), 4: (4, 2, 1)}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("channels", [2, 16])
def test_a_weight_of_one_input_channel_may_be_channels_last(
    way: Way, kernel: int, channels: int
) -> None:
    model = nn.Sequential(
        nn.ConvTranspose2d(1, channels, *KERNELS[kernel]),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.ConvTranspose2d(channels, 1, *KERNELS[kernel]),
        nn.Tanh(),
    ).to(memory_format=torch.channels_last)
    x = torch.randn(4, 1, 5, 3).contiguous(memory_format=torch.channels_last)

    def compute(model: nn.Module) -> Results:
        given = like(model, x)
        y = model(given)
        return backward(model, y.pow(3).sum(), x=given) | {"y": y}

    assert_right(way, model, compute)


def test_ones_give_the_number_of_taps(host_backend: str) -> None:
    x = torch.ones(1, 1, 2, 2).contiguous(memory_format=torch.channels_last)
    weight = torch.ones(1, 2, 5, 5).contiguous(memory_format=torch.channels_last)
    y = norm_act_conv(x, weight, transposed=True)
    row = torch.tensor([1.0, 2, 2, 2, 2, 1])
    assert torch.equal(y, (row[:, None] * row).expand(1, 2, 6, 6))
