"""pytorch#180984: a slice of the channels of a channels-last tensor goes through a layer.

Its strides look channels-last, yet its pixels do not follow one another, and kernels read what lies
between. Right: a slice is what its copy is, for convolutions, norms and activations.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from ways import Results, Way, assert_right, backward, like

import fastgan.nn as fnn

SLICES = {"first": slice(0, 16), "last": slice(16, 32), "every second": slice(0, 32, 2)}
LAYERS = {
    "convolution": lambda: [nn.Conv2d(16, 16, 3, padding=1), nn.LeakyReLU(0.2)],
    "transposed": lambda: [nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Tanh()],
    "norm": lambda: [nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 3)],
    "instance norm": lambda: [nn.InstanceNorm2d(16, affine=True), nn.LeakyReLU(0.2)],
}
MODULES = {
    "norm": (lambda: fnn.BatchNormAct2d(16), lambda: nn.BatchNorm2d(16)),
    "instance norm": (
        lambda: fnn.InstanceNormAct2d(16, affine=True),
        lambda: nn.InstanceNorm2d(16, affine=True),
    ),
    "bias": (lambda: fnn.BiasAct(16, negative_slope=0.01), None),
}


def measured(model: nn.Module, images: Tensor, part: slice) -> Results:
    given = like(model, images)
    y = model(given[:, part])
    # Its gradient is a slice, too: of what a concatenation had.
    both = torch.cat([y, y.square()], 1)
    return backward(model, both.pow(3).sum(), x=given) | {"y": y}


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 32, 6, 6).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("part", SLICES)
@pytest.mark.parametrize("layers", LAYERS)
def test_layers_take_a_slice_of_channels(way: Way, images: Tensor, layers: str, part: str) -> None:
    model = nn.Sequential(*LAYERS[layers]()).to(memory_format=torch.channels_last)
    assert_right(way, model, lambda m: measured(m, images, SLICES[part]))


@pytest.mark.parametrize("part", SLICES)
@pytest.mark.parametrize("kind", MODULES)
def test_modules_take_a_slice_of_channels(
    setting: str, images: Tensor, kind: str, part: str
) -> None:
    own, plain = MODULES[kind]
    module = own()
    theirs = nn.Sequential(_Bias() if plain is None else plain(), nn.LeakyReLU(0.01))
    for source, target in zip(module.parameters(), theirs.parameters(), strict=True):
        nn.init.normal_(source)
        target.data.copy_(source)

    def fastgans(_: nn.Module) -> nn.Module:
        return nn.Sequential(module)

    assert_right(fastgans, theirs, lambda m: measured(m, images, SLICES[part]))


class _Bias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(16))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias[:, None, None]
