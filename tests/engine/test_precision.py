"""Weights rounded all at once, in place of autocast's casts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from fastgan.engine.precision import RoundedWeights, Rounding
from fastgan.models import create_model

DTYPE = torch.bfloat16


def plain() -> nn.Sequential:
    """Layers of torch.nn, in channels-last memory; the last is in it twice."""
    torch.manual_seed(0)
    twice = nn.Linear(8, 8)
    layers = [nn.Conv2d(3, 8, 4, 2, 1), nn.BatchNorm2d(8), nn.ReLU()]
    layers += [nn.ConvTranspose2d(8, 8, 4, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, twice, twice).to(memory_format=torch.channels_last)


@contextmanager
def rounded(network: nn.Module) -> Iterator[RoundedWeights]:
    weights = RoundedWeights(DTYPE)
    with torch.autocast("cpu", DTYPE), weights.within(network):
        yield weights


def trained(network: nn.Module, x: Tensor, at_once: bool, penalty: bool) -> list[Tensor]:
    """An output and the gradients of all parameters, after two passes in one region."""
    x = x.clone().requires_grad_()
    with rounded(network) if at_once else torch.autocast("cpu", DTYPE):
        y = network(x) + network(x.flip(0))
        loss = y.float().square().mean()
        if penalty:
            (slope,) = torch.autograd.grad(y.float().sum(), x, create_graph=True)
            loss = loss + slope.square().mean()
    loss.backward()
    found = [p.grad for p in network.parameters() if p.grad is not None]
    return [y.detach(), *found]


@pytest.mark.parametrize("penalty", [False, True])
def test_results_are_those_of_autocast_bit_for_bit(penalty):
    x = torch.randn(4, 3, 8, 8)
    expected, got = (trained(plain(), x, at_once, penalty) for at_once in (False, True))
    assert len(got) == 9
    for a, b in zip(expected, got, strict=True):
        assert a.dtype is b.dtype
        assert torch.equal(a, b)


def test_gradients_wait_for_those_of_their_launch_alone():
    """In parts of so many bytes, the last weights first; the bits are the same."""
    network, x, order = plain(), torch.randn(4, 3, 8, 8), []
    for name, parameter in network.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: order.append(name))
    with torch.autocast("cpu", DTYPE), RoundedWeights(DTYPE, at_once=1).within(network):
        nodes = {id(layer.weight.grad_fn) for layer in (network[0], network[3], network[6])}
        network(x).float().square().mean().backward()
    assert len(nodes) == 3
    weights = [name for name in order if name in ("0.weight", "3.weight", "6.weight")]
    assert weights == ["6.weight", "3.weight", "0.weight"]
    # The bias of the first layer is ready with its weight, so the others did not wait for it.
    assert order.index("3.weight") < order.index("0.bias")
    got, again = {n: p.grad for n, p in network.named_parameters()}, plain()
    with rounded(again):
        again(x).float().square().mean().backward()
    for name, parameter in again.named_parameters():
        assert torch.equal(got[name], parameter.grad), name


def test_layers_have_their_own_weights_again():
    network = plain()
    before = list(network.parameters())
    with pytest.raises(RuntimeError, match="channels"), rounded(network):
        network(torch.zeros(1, 2, 8, 8))
    assert all(a is b for a, b in zip(before, network.parameters(), strict=True))


def test_a_region_rounds_once_also_where_it_begins_without_a_graph():
    network = plain()
    with torch.no_grad(), rounded(network) as weights:
        first = network[0].weight
    assert first.grad_fn is not None
    with weights.within(network):
        assert network[0].weight is first


def test_networks_of_one_region_are_rounded_by_one_launch():
    both, x = (plain(), plain()), torch.randn(2, 3, 8, 8)
    expected = [trained(network, x, at_once=True, penalty=False) for network in both]
    for network in both:
        network.zero_grad()
    weights, outputs = RoundedWeights(DTYPE, together=both), []
    with torch.autocast("cpu", DTYPE):
        for network in both:
            with weights.within(network):
                outputs.append(network(x) + network(x.flip(0)))
    assert len({w.grad_fn for layers in weights._of.values() for _, _, w in layers}) == 1
    for network, y, (_, *gradients) in zip(both, outputs, expected, strict=True):
        y.float().square().mean().backward()
        for p, gradient in zip(network.parameters(), gradients, strict=True):
            assert torch.equal(p.grad, gradient)


def test_copies_that_are_there_are_not_made_again():
    network, update = plain(), SimpleNamespace(copies=None)
    rounding = Rounding()
    with rounding.step(update, network, DTYPE):
        for weight, copy in update.copies.of.items():
            update.copies.current[weight] = copy.fill_(2.0)
        with rounding.region(DTYPE, ()), rounding.within(network):
            assert (network[0].weight == 2).all()
            network[0].weight.float().sum().backward()
    assert (network[0].weight.grad == 1).all()
    assert update.copies is None
    with rounding.region(DTYPE, ()), rounding.within(network):
        assert torch.equal(network[0].weight.float(), plain()[0].weight.bfloat16().float())


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(spectral_norm(nn.Linear(3, 3))),
        nn.Sequential(nn.BatchNorm1d(3), nn.LayerNorm(3)),
        nn.Linear(3, 3, dtype=torch.float64),
    ],
)
def test_other_weights_are_left_to_autocast(network):
    before = list(network.parameters())
    with rounded(network):
        assert all(a is b for a, b in zip(before, network.parameters(), strict=True))


@pytest.mark.parametrize("how", ["function", "method"])
def test_a_compiled_network_is_left_to_autocast(how):
    network = nn.Linear(3, 3)
    if how == "method":
        network.compile(backend="eager")
    compiled = network if how == "method" else torch.compile(network, backend="eager")
    with rounded(nn.Sequential(compiled)):
        assert network.weight.dtype is torch.float32


def test_every_convolution_and_projection_of_a_model_is_rounded():
    generator = create_model("dcgan_generator", image_size=32, channels=3)
    with rounded(generator):
        wide = [n for n, p in generator.named_parameters() if p.dim() > 1 and p.dtype != DTYPE]
    with rounded(generator):
        assert generator(torch.randn(2, generator.latent_dim)).dtype is DTYPE
    assert wide == []
