"""pytorch#104593, #197539: a convolution is used twice, and a norm follows one of the calls.

torch.fx's fuser folded the norm into the convolution, and the other call got its result, too.
Right: each call is what it was, in training and evaluation, and `fold` leaves such a pair alone.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from ways import Results, Way, assert_right, backward, like

import fastgan


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.act(self.norm(self.conv(x))), self.conv(y)


class Alone(Twice):
    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.conv(x), self.norm(self.conv(y))


def shaken(kind: type[Twice]) -> Twice:
    model = kind()
    for value in (model.norm.weight, model.norm.bias, model.norm.running_mean):
        nn.init.normal_(value)
    nn.init.uniform_(model.norm.running_var, 0.5, 2.0)
    return model


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("kind", [Twice, Alone])
def test_each_call_of_the_convolution_is_its_own(
    fuse: Way, kind: type[Twice], training: bool
) -> None:
    x, y = torch.randn(2, 2, 3, 8, 8)

    def compute(model: nn.Module) -> Results:
        first, second = like(model, x), like(model, y)
        normed, plain = model.train(training)(first, second)
        loss = normed.square().sum() + plain.pow(3).sum()
        found = backward(model, loss, x=first, y=second)
        return found | {"normed": normed, "plain": plain}

    assert_right(fuse, shaken(kind), compute)


@pytest.mark.parametrize("kind", [Twice, Alone])
def test_folding_leaves_the_other_call_alone(kind: type[Twice]) -> None:
    model = shaken(kind).eval()
    inputs = torch.randn(2, 2, 3, 8, 8)
    expected = model(*inputs)
    folded = fastgan.fold(copy.deepcopy(model))
    torch.testing.assert_close(folded(*inputs), expected)
