"""Whole discriminator losses, with regulariser and augmentation, as a captured step needs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from devices import DEVICES
from torch import Tensor, nn

from fastgan.augment import ADA, Augmentation, Chain, DiffAugment, InstanceNoise
from fastgan.losses import LOSSES, get_loss
from fastgan.models import create_model
from fastgan.regularizers import REGULARIZERS, Regularizer, clip_weights_, get_regularizer

# Each loss with some regulariser, and each regulariser with some loss.
PAIRS = [(loss, REGULARIZERS[i % len(REGULARIZERS)]) for i, loss in enumerate(LOSSES)]
NORMS = ["batch", "spectral"]


def _augmentation() -> Augmentation:
    ada = ADA(p=0.5, kimg=0.1, interval=1, filter=True, noise=True, cutout=True)
    return Chain(DiffAugment(), ada, InstanceNoise(steps=100))


def _step(
    loss: str, name: str, norm: str, device: str
) -> tuple[Callable[[], Tensor], list[nn.Module], Regularizer, Augmentation]:
    """A discriminator's and a generator's gradient, and what they change besides."""
    options = {"image_size": 16, "width": 4, "channels": 3}
    generator = create_model("dcgan_generator", latent_dim=8, **options).to(device)
    discriminator = create_model("dcgan_discriminator", norm=norm, **options).to(device)
    regularizer, augment = get_regularizer(name).to(device), _augmentation().to(device)
    pair = get_loss(loss)
    real = torch.randn(8, 3, 16, 16, device=device)

    def seen(images: Tensor) -> Tensor:
        return discriminator(augment(images))

    def step() -> Tensor:
        for module in (generator, discriminator):
            module.zero_grad(set_to_none=True)
        fake = generator(torch.randn(8, 8, device=device))
        real_logits, fake_logits = seen(real), seen(fake.detach())
        loss_d = pair.discriminator(real_logits, fake_logits)
        if regularizer.takes == "logits":
            penalty = regularizer.penalty(real_logits, fake_logits)
        else:
            penalty = regularizer(seen, real, fake)
        (loss_d + regularizer.scale * penalty).backward()
        augment.update(real_logits)
        clip_weights_(discriminator, 0.1)
        loss_g = pair.generator(seen(fake), seen(real).detach() if pair.relativistic else None)
        loss_g.backward()
        return torch.stack([loss_d.detach(), penalty.detach(), loss_g.detach()])

    return step, [generator, discriminator], regularizer, augment


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("loss", "name"), PAIRS)
def test_nothing_waits_for_the_device(loss: str, name: str, norm: str, no_host_sync: Any) -> None:
    step, networks, _, augment = _step(loss, name, norm, "cpu")
    with no_host_sync():
        values = step()
    assert torch.isfinite(values).all()
    for network in networks:
        for key, parameter in network.named_parameters():
            assert parameter.grad is not None, key
            assert torch.isfinite(parameter.grad).all(), key
    assert augment.augmentations[1].p != 0.5


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("loss", "name"), PAIRS)
@pytest.mark.parametrize("device", DEVICES[1:])
def test_a_cuda_graph_holds_the_step(loss: str, name: str, norm: str, device: str) -> None:
    step, _, regularizer, augment = _step(loss, name, norm, device)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        values = step()
    drawn = []
    for _ in range(4):
        graph.replay()
        drawn.append(values.clone())
    assert torch.isfinite(torch.stack(drawn)).all()
    # Each replay draws anew and moves the state on.
    assert len({tuple(v.tolist()) for v in drawn}) == 4
    assert augment.augmentations[2].updates == 3 + 4
    if name == "lecam":
        assert regularizer.updates == 3 + 4
