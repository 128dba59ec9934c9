"""pytorch#107199, #37725: a gradient, or an output, leaves channels-last memory on the way.

Norms and convolutions gave contiguous gradients for channels-last images, and every layer after
them copied. Right: outputs and gradients lie as the images and weights they belong to.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from ways import Way

import fastgan.nn as fnn


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_of_a_model(way: Way, layout: torch.memory_format) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 4, 2, 1),
        nn.BatchNorm2d(16),
        nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(16, 3, 4, 2, 1),
        nn.Tanh(),
    ).to(memory_format=layout)
    fused = way(model)
    x = torch.randn(4, 3, 8, 8).contiguous(memory_format=layout).requires_grad_()
    y = fused(x)
    y.backward(torch.randn(4, 3, 8, 8))
    assert x.grad.stride() == x.stride()
    if layout is torch.channels_last:  # the only layout of what one kernel makes of a block
        assert y.stride() == x.stride()
    for name, p in fused.named_parameters():
        assert p.grad.stride() == p.stride(), name


MODULES = {
    "batch norm": (fnn.BatchNormAct2d, torch.channels_last),
    "instance norm": (fnn.InstanceNormAct2d, torch.channels_last),
    "bias": (fnn.BiasAct, torch.channels_last),
    "batch norm of volumes": (fnn.BatchNormAct3d, torch.channels_last_3d),
}


@pytest.mark.parametrize("kind", MODULES)
def test_of_a_module(host_backend: str, kind: str) -> None:
    make, layout = MODULES[kind]
    shape = (2, 8, 4, 4, 4)[: 5 if layout is torch.channels_last_3d else 4]
    x = torch.randn(shape).contiguous(memory_format=layout).requires_grad_()
    y = make(8)(x)
    y.backward(torch.randn(shape))
    assert y.stride() == x.stride() == x.grad.stride()
