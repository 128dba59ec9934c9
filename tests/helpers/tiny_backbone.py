"""A backbone that takes no package: three random convolutions, the same whenever it is made."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from fastgan.models import Backbone

CHANNELS = (4, 6, 8)


class _Maps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv2d(*pair, 3, 2, 1) for pair in pairwise((3, *CHANNELS))]
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        for layer in self.layers:
            x = layer(x).tanh()
            maps.append(x)
        return maps


def make(seed: int = 0) -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Backbone("tiny", _Maps(), CHANNELS, (2, 4, 8))


def other() -> Backbone:
    return make(1)
