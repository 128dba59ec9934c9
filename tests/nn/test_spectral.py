"""Spectral norms that are estimated together against torch's own, one by one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from tolerance import assert_as_exact, within
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from fastgan.models import spectral_norm
from fastgan.nn import spectral
from fastgan.nn.spectral import SpectralNorms


@pytest.fixture(autouse=True)
def on_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SpectralNorms, "devices", ("cpu",))


class Layers(nn.Module):
    """Layers of every kind of matrix; a pass through them is the list of their weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(6, 10, 3),
                nn.ConvTranspose2d(10, 6, 4, stride=2),
                nn.Conv1d(4, 8, 5, groups=2),
                nn.Conv3d(2, 3, 2),
                nn.Linear(7, 1),
                nn.Linear(1, 5),
                nn.Conv2d(6, 10, 3),
            ]
        )
        spectral_norm(self)
        self.layers[0].to(memory_format=torch.channels_last)
        self.layers[1].to(memory_format=torch.channels_last)
        self.label = parametrizations.spectral_norm(nn.Embedding(4, 9), n_power_iterations=2)

    def forward(self) -> list[Tensor]:
        return [layer.weight for layer in (self.label, *self.layers)]


def together(model: nn.Module) -> list[Tensor]:
    with SpectralNorms().within(model):
        found: list[Tensor] = model()
    return found


def triples(make: Callable[[Callable[[], list[Tensor]], nn.Module], list[Tensor]]) -> Any:
    """What is made of passes: estimated together, by torch in float32, and by it in float64."""
    own, theirs = Layers(), Layers()
    exact = copy.deepcopy(theirs).double()
    made = make(partial(together, own), own), make(theirs, theirs), make(exact, exact)
    for vectors in zip(*(m.buffers() for m in (own, theirs, exact)), strict=True):
        assert_as_exact("vector", *vectors)
    return zip(*made, strict=True)


@pytest.mark.parametrize("worth", [0, 10**4, 2**21])
def test_weights_and_vectors_of_a_few_passes(worth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectral, "_WORTH", worth)
    for weights in triples(lambda run, _: [w for _ in range(3) for w in run()]):
        assert weights[0].shape == weights[1].shape
        assert weights[0].stride() == weights[1].stride()
        assert_as_exact("weight", *weights)


def test_as_few_stacks_as_zeros_are_worth(monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = [item.matrix for item in spectral._found(Layers(), ("cpu",))]
    assert len(matrices) == 8
    assert len(spectral._stacks(matrices)) == 2  # of one iteration, and of two
    monkeypatch.setattr(spectral, "_WORTH", 0)
    assert len(spectral._stacks(matrices)) == 7  # two convolutions are alike


@pytest.mark.parametrize("order", [1, 2])
def test_gradients(order: int) -> None:
    """Of two passes, and of the size of their gradients."""

    def slopes(run: Callable[[], list[Tensor]], model: nn.Module) -> list[Tensor]:
        loss = sum((w.sin() * w).sum() for w in (*run(), *run()))
        leaves = list(model.parameters())
        leaves = [p for p in leaves if p.dim() > 1]
        found = torch.autograd.grad(loss, leaves, create_graph=order == 2)
        if order == 2:
            found = torch.autograd.grad(sum(g.square().sum() for g in found), leaves)
        return list(found)

    for gradients in triples(slopes):
        assert_as_exact("gradient", *gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_under_autocast_the_estimate_is_float32s(dtype: torch.dtype) -> None:
    model = Layers()
    wide = together(copy.deepcopy(model))
    with torch.autocast("cpu", dtype):
        label, *weights = together(model)
    assert torch.equal(label, wide[0])  # which autocast would not round
    assert all(map(torch.equal, weights, [w.to(dtype) for w in wide[1:]]))
    twin = Layers()
    for own, theirs in zip(weights, twin()[1:], strict=True):
        slope = torch.randn(own.shape)
        (own * slope.to(dtype)).sum().backward(retain_graph=True)
        (theirs.to(dtype) * slope.to(dtype)).sum().backward()
    for own, theirs in zip(model.layers.parameters(), twin.layers.parameters(), strict=True):
        if own.dim() > 1:
            torch.testing.assert_close(own.grad, theirs.grad, **within(torch.float32, 100, 10))


def test_evaluation_keeps_the_vectors_and_torchs_bits() -> None:
    model = Layers().eval()
    before = [b.clone() for b in model.buffers()]
    expected = model()
    assert all(map(torch.equal, together(model), expected))
    assert all(map(torch.equal, model.buffers(), before))


def test_frozen_weights_and_no_grad() -> None:
    model = Layers().requires_grad_(False)
    assert not any(w.requires_grad for w in together(model))
    with torch.no_grad():
        assert not any(w.requires_grad for w in together(model.requires_grad_(True)))
    model.layers.requires_grad_(False)
    label, *_ = together(model)
    label.sum().backward()
    assert model.label.parametrizations["weight"].original.grad is not None
    assert all(p.grad is None for p in model.layers.parameters())


def test_after_a_pass_layers_are_torchs_again() -> None:
    model, names = Layers(), set(Layers().state_dict())
    with pytest.raises(KeyError), SpectralNorms().within(model):
        raise KeyError
    twin = copy.deepcopy(model)
    assert all(map(torch.equal, model(), twin()))
    together(model)
    assert set(model.state_dict()) == names
    before = model.label.parametrizations["weight"][0]._u.clone()
    assert not torch.equal(model.label.weight, twin.label.weight)
    assert not torch.equal(model.label.parametrizations["weight"][0]._u, before)


def test_a_weight_of_zeros_is_torchs_nan() -> None:
    model = spectral_norm(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 4)))
    with torch.no_grad():
        model[0].parametrizations["weight"].original.zero_()
    with SpectralNorms().within(model):
        found = [layer.weight for layer in model]
    assert found[0].isnan().all()
    assert found[1].isfinite().all()


def test_what_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("it was to be left to torch")

    monkeypatch.setattr(SpectralNorms, "_estimated", refuse)
    linear = spectral_norm(nn.Linear(2, 3))
    with pytest.raises(AssertionError, match="left"), SpectralNorms().within(linear):
        pass
    compiled = spectral_norm(nn.Linear(2, 3))
    compiled.compile()
    vector = parametrizations.spectral_norm(nn.BatchNorm1d(3))
    others = compiled, vector, spectral_norm(nn.Linear(2, 3)).double(), nn.Linear(2, 3)
    for other in (*others, parametrizations.weight_norm(nn.Linear(2, 3)), linear.eval()):
        with SpectralNorms().within(other):
            assert not any("forward" in vars(m) for m in other.modules())


def test_a_second_parametrization_is_applied_to_the_estimate() -> None:
    class Half(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight / 2

    layer = spectral_norm(nn.Linear(3, 4))
    plain = copy.deepcopy(layer)
    parametrize.register_parametrization(layer, "weight", Half())
    with torch.autocast("cpu", torch.bfloat16), SpectralNorms().within(layer):
        found = layer.weight
    with SpectralNorms().within(plain):
        torch.testing.assert_close(found, plain.weight / 2, **within(torch.float32, 10, 1))
