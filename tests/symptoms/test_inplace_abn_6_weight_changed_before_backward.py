"""inplace_abn#6: a parameter is changed after the forward pass and before the backward pass.

A layer that computes its input again from its output, by the parameters of now, gets it wrong in
silence. Right: either the gradients of the pass as it was, or autograd's error that says so.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from ways import Results, Way, backward, like

NAMES = ["0.weight", "1.weight", "1.bias", "3.weight", "3.bias", "x"]


def layers() -> nn.Sequential:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(8, 3, 4, 2, 1),
        nn.Tanh(),
    )
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model


def computed(model: nn.Module, images: Tensor, changed: str | None, twice: bool) -> Results:
    x = like(model, images)
    inner = x * 1.0  # not a leaf, so that it may be written to
    loss = model(inner).pow(3).sum()
    if twice:
        (slope,) = torch.autograd.grad(loss, inner, create_graph=True)
        loss = slope.square().sum()
    if changed is not None:
        with torch.no_grad():
            (dict(model.named_parameters()) | {"x": inner})[changed].mul_(-2).add_(1)
    return {k: v for k, v in backward(model, loss, x=x).items() if k.startswith("d ")}


@pytest.mark.parametrize("twice", [False, True], ids=["backward", "double backward"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("changed", NAMES)
def test_a_change_before_backward_is_refused_or_without_effect(
    way: Way, changed: str, training: bool, twice: bool
) -> None:
    model = layers().train(training)
    images = torch.randn(2, 3, 6, 6)
    expected = computed(way(copy.deepcopy(model)), images, None, twice)
    try:
        found = computed(way(model), images, changed, twice)
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):
            raise
    else:
        torch.testing.assert_close(found, expected)
