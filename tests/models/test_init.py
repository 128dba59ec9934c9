"""Initialisation by name."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from fastgan.models import init_weights, initialize, spectral_norm
from fastgan.nn import BatchNormAct2d


def _model() -> nn.Sequential:
    model = nn.Sequential(
        nn.Linear(50, 50),
        nn.BatchNorm1d(50),
        nn.InstanceNorm1d(50, affine=True),
        nn.BatchNorm1d(50, affine=False),
        nn.PReLU(),
        BatchNormAct2d(50),
        nn.Conv2d(50, 20, 3),
        nn.ConvTranspose2d(50, 20, 4, bias=False),
    )
    for parameter in model.parameters():
        parameter.data.fill_(0.75)
    return model


@pytest.mark.parametrize("scheme", ["normal", "orthogonal", "xavier_uniform"])
def test_every_layer_is_reached_and_no_other(scheme: str) -> None:
    model = _model()
    assert initialize(model, scheme, std=0.5) is model
    for i in (0, 6, 7):
        assert model[i].weight.unique().numel() > 1000
        assert model[i].weight.mean().abs() < 0.05
    for i in (1, 2, 5):
        if scheme == "normal":
            assert 0.25 < model[i].weight.std() < 0.75
        else:
            assert torch.equal(model[i].weight, torch.ones(50))
    for i in (0, 1, 2, 5, 6):
        assert not model[i].bias.any()
    assert model[4].weight.item() == 0.75
    assert torch.equal(model[1].running_var, torch.ones(50))


def test_normal() -> None:
    torch.manual_seed(0)
    weight = init_weights(_model(), std=0.3)[0].weight
    torch.manual_seed(0)
    assert torch.equal(initialize(_model(), "normal", std=0.3)[0].weight, weight)
    assert weight.std().item() == pytest.approx(0.3, rel=0.05)


def test_orthogonal() -> None:
    model = initialize(_model(), "orthogonal", gain=2.0)
    for i in (0, 6, 7):
        values = torch.linalg.svdvals(model[i].weight.flatten(1))
        torch.testing.assert_close(values, torch.full_like(values, 2.0))


def test_xavier_uniform() -> None:
    weight = initialize(_model(), "xavier_uniform", gain=2.0)[6].weight
    bound = 2 * math.sqrt(6 / (9 * (50 + 20)))
    assert 0.99 * bound < weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_under_spectral_norm_the_estimate_follows() -> None:
    layer = spectral_norm(nn.Linear(20, 10))
    initialize(layer, "normal", std=3.0)
    original = layer.parametrizations.weight.original
    assert original.std().item() == pytest.approx(3, rel=0.2)
    estimate = (original / layer.eval().weight).mean().item()
    assert estimate == pytest.approx(torch.linalg.matrix_norm(original, 2).item(), rel=0.02)
    assert initialize(layer).parametrizations.weight.training is False


def test_bad_arguments() -> None:
    model = _model()
    with pytest.raises(ValueError, match="unknown scheme 'he'; there are normal, orthogonal, xav"):
        initialize(model, "he")
    with pytest.raises(ValueError, match="std must be at least 0, got -1"):
        init_weights(model, std=-1)
    with pytest.raises(ValueError, match="gain must be at least 0, got -1"):
        initialize(model, "orthogonal", gain=-1)
    parametrizations.weight_norm(model[0])
    with pytest.raises(ValueError, match=r"0\.weight must be plain or under spectral norm, got"):
        initialize(model)
