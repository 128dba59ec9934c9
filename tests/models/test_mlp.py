"""The MLP GAN: its default sizes, and any others."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastgan.models import MLPDiscriminator, MLPGenerator


def _sizes(model: nn.Module) -> list[int]:
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    return [linear[0].in_features, *(layer.out_features for layer in linear)]


def test_default_sizes() -> None:
    assert _sizes(MLPGenerator()) == [100, 128, 128, 784]
    assert _sizes(MLPDiscriminator()) == [784, 128, 1]


@pytest.mark.parametrize("hidden", [(), (3,), [9, 8, 7]])
def test_any_hidden_sizes(hidden: list[int]) -> None:
    generator = MLPGenerator(4, 5, 3, hidden)
    discriminator = MLPDiscriminator(5, 3, hidden)
    assert _sizes(generator) == [4, *hidden, 75]
    assert _sizes(discriminator) == [75, *hidden, 1]
    assert discriminator(generator(torch.randn(2, 4))).shape == (2,)


def test_dropout_follows_each_hidden_activation() -> None:
    model = MLPDiscriminator(5, hidden=(8, 8), dropout=0.25)
    dropouts = [m for m in model.modules() if isinstance(m, nn.Dropout)]
    assert [layer.p for layer in dropouts] == [0.25, 0.25]
    assert isinstance(model.layers[-1], nn.Linear)
