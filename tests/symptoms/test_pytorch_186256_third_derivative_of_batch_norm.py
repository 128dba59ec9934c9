"""pytorch#186256: the third derivative of batch norm in training is wrong, without a word.

Its double backward takes the saved mean and deviation for constants.
Right: derivatives of the third order are those of the formula written in plain operations.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, leaky_relu

from fastgan.nn import BatchNormAct2d, FusedSequential


def by_hand(x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean((0, 2, 3), keepdim=True)
    return centred * (centred.square().mean((0, 2, 3), keepdim=True) + eps).rsqrt()


def third(function: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    value = function(x).pow(3).sum()
    found = []
    for _ in range(3):
        (gradient,) = torch.autograd.grad(value, x, create_graph=True)
        value = gradient.square().sum()
        found.append(gradient.detach())
    return found


def test_of_the_layer(host_backend: str) -> None:
    layer = BatchNormAct2d(3, affine=False, negative_slope=0.2).double()
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    expected = third(lambda x: leaky_relu(by_hand(x, layer.eps), 0.2), x)
    torch.testing.assert_close(third(layer, x), expected)


def test_of_the_layer_and_its_convolution(setting: str) -> None:
    norm, conv = nn.BatchNorm2d(3, affine=False), nn.Conv2d(3, 4, 3)
    block = FusedSequential(norm, nn.LeakyReLU(0.2), conv).double()
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    expected = third(
        lambda x: conv2d(leaky_relu(by_hand(x, norm.eps), 0.2), conv.weight, conv.bias), x
    )
    torch.testing.assert_close(third(block, x), expected)
