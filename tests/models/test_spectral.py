"""Spectral norm of whole networks."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fastgan.engine.checkpoint import load_module, open_checkpoint, save_checkpoint
from fastgan.models import create_model, spectral_norm
from fastgan.models.init import LINEAR
from fastgan.regularizers import r1


def _layers(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if isinstance(m, LINEAR)]


def _rows(layer: nn.Module, weight: Tensor) -> Tensor:
    """The weight as a matrix with output channels as rows."""
    transposed = "Transpose" in type(layer).__name__
    return (weight.transpose(0, 1) if transposed else weight).flatten(1)


@pytest.mark.parametrize("family", ["dcgan", "tf_dcgan", "mlp"])
@pytest.mark.parametrize("role", ["generator", "discriminator"])
def test_every_weight_gets_a_norm_of_one(family: str, role: str) -> None:
    model = create_model(f"{family}_{role}")
    plain = [layer.weight.detach().clone() for layer in _layers(model)]
    assert spectral_norm(model, n_power_iterations=200) is model
    layers = _layers(model)
    assert len(layers) == len(plain) >= 2
    for layer, weight in zip(layers, plain, strict=True):
        if weight.numel() > 100_000:
            continue  # large singular value decompositions would show no more
        exact = torch.linalg.matrix_norm(_rows(layer, weight), 2)
        torch.testing.assert_close(layer.weight, weight / exact, rtol=0.01, atol=1e-4)


def _discriminator() -> Any:
    return create_model("dcgan_discriminator", image_size=8, channels=1, width=4, norm="spectral")


def test_a_discriminator_of_that_norm() -> None:
    discriminator = _discriminator()
    assert all(parametrize.is_parametrized(layer, "weight") for layer in _layers(discriminator))
    assert all(layer.bias is not None for layer in _layers(discriminator))
    assert sorted(name for name in discriminator.state_dict() if name.startswith("output")) == [
        "output.bias",
        "output.parametrizations.weight.0._u",
        "output.parametrizations.weight.0._v",
        "output.parametrizations.weight.original",
    ]


def test_training_estimates_and_evaluation_keeps() -> None:
    discriminator, images = _discriminator(), torch.randn(2, 1, 8, 8)
    vectors = [b.clone() for b in discriminator.buffers()]
    discriminator.eval()
    first = discriminator(images)
    assert torch.equal(discriminator(images), first)
    assert all(map(torch.equal, discriminator.buffers(), vectors))
    discriminator.train()(images)
    assert not all(map(torch.equal, discriminator.buffers(), vectors))


def test_two_passes_penalty_and_step(no_host_sync: Any) -> None:
    discriminator = _discriminator().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(discriminator.parameters(), lr=0.1)
    real, fake = torch.randn(4, 1, 8, 8), torch.randn(4, 1, 8, 8)
    before = {name: p.detach().clone() for name, p in discriminator.named_parameters()}
    with no_host_sync():
        loss = discriminator(fake).mean() - discriminator(real).mean() + r1(discriminator, real)
        loss.backward()
        optimizer.step()
    for name, parameter in discriminator.named_parameters():
        assert torch.isfinite(parameter).all()
        # The two means cancel the last bias.
        assert torch.equal(parameter, before[name]) == (name == "output.bias"), name


def test_copies_and_checkpoints(tmp_path: Path) -> None:
    discriminator, images = _discriminator(), torch.randn(2, 1, 8, 8)
    discriminator(images)
    copied = copy.deepcopy(discriminator)
    path = save_checkpoint(tmp_path, 1, {"discriminator": discriminator.state_dict()}, {})
    restored = _discriminator()
    load_module(restored, open_checkpoint(path).tensors("discriminator"), "discriminator")
    expected = [discriminator(images) for _ in range(2)]
    for other in (copied, restored):
        assert all(map(torch.equal, [other(images) for _ in range(2)], expected))


def test_the_plain_weight_can_be_had_back() -> None:
    discriminator, images = _discriminator().eval(), torch.randn(2, 1, 8, 8)
    expected = discriminator(images)
    for layer in _layers(discriminator):
        parametrize.remove_parametrizations(layer, "weight")
    torch.testing.assert_close(discriminator(images), expected)
    assert "output.weight" in discriminator.state_dict()


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="module has no convolution or linear layer: ReLU"):
        spectral_norm(nn.ReLU())
    model = nn.Sequential(nn.Linear(2, 2))
    spectral_norm(model)
    with pytest.raises(ValueError, match=r"0\.weight has a parametrization already"):
        spectral_norm(model)
