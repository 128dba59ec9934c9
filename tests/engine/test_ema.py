"""The moving average, and its rate where that is read from the device."""

from __future__ import annotations

import copy

import pytest
import torch
from tolerance import within
from torch import nn

from fastgan.engine.ema import Ema


def network() -> nn.Module:
    layers = nn.Conv2d(3, 4, 4), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 3)
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", ["alike", "of two dtypes"])
def test_a_rate_on_the_device_gives_the_same_average(kind):
    module = network()
    if kind == "of two dtypes":
        module[2].double()
    numbers, tensors = Ema(module, 0.9), Ema(module, 0.9)
    tensors.rate = torch.zeros(())  # as on a GPU
    assert tensors._alike == (kind == "alike")
    for step in range(1, 30):
        for p in module.parameters():
            p.data.normal_()
        module[1].running_var.uniform_()
        module[1].num_batches_tracked.fill_(step)
        before = copy.deepcopy(module.state_dict())
        for ema in (numbers, tensors):
            ema.before(step)
            ema.update()
        for name, value in module.state_dict().items():
            assert torch.equal(value, before[name]), f"{name} of the module was written"
    own, other = tensors.average.state_dict(), numbers.average.state_dict()
    assert own["1.num_batches_tracked"] == 29
    for name, value in other.items():
        torch.testing.assert_close(own[name], value, **within(torch.float32, 10, 4))
