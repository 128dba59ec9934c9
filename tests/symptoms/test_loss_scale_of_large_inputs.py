"""Inputs a thousand times as large, in float16: scaled gradients overflow at first.

A loss scale that stays too large skips every update; one that is not taken out again moves the
weights. Right: it falls until gradients are finite, no bad update is applied on the way, and the
gradients that are applied are float64's, to float16's rounding.
"""

from __future__ import annotations

import copy

import torch
from tolerance import assert_as_exact
from torch import Tensor, nn

import fastgan
from fastgan.data import ImageDataset
from fastgan.engine import TrainConfig, Trainer
from fastgan.engine.precision import LossScale

FACTOR = 1e3
SCALE = 2.0**4  # of which nothing overflows


class Generator(nn.Sequential):
    latent_dim = 6

    def __init__(self) -> None:
        super().__init__(
            nn.Unflatten(1, (6, 1, 1)),
            nn.ConvTranspose2d(6, 16, 4),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 1, 4, 2, 1),
            nn.Tanh(),
        )


class Discriminator(nn.Module):
    """Of images in another unit: what it sees is `FACTOR` times as large."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(16, 1, 4), nn.Flatten(0)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images * FACTOR)


def trainer(precision: str) -> Trainer:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (16, 1, 8, 8), dtype=torch.uint8)
    data = ImageDataset(images=images, labels=None, classes=None, name="tiny", skipped=0)
    config = TrainConfig(batch_size=8, precision=precision, ema_decay=0.0)
    return Trainer(fastgan.fuse(Generator()), fastgan.fuse(Discriminator()), data, config)


def weights(of: Trainer) -> dict[str, Tensor]:
    networks = {"g": of.generator, "d": of.discriminator}
    return {f"{n}.{k}": p for n, net in networks.items() for k, p in net.named_parameters()}


def test_the_scale_falls_until_updates_are_made(setting: str) -> None:
    half = trainer("float16")
    update = half.gan.update_d
    before = copy.deepcopy(weights(half))
    half.train_step()
    assert update.overflows == update.skipped == 1
    for name, p in weights(half).items():
        assert torch.equal(p, before[name]) or name.startswith("g."), name
    for _ in range(20):
        half.train_step()
    assert 1 <= update.scale < LossScale.INITIAL
    skipped = int(update.skipped)
    assert skipped == update.overflows == 16 - int(update.scale.log2())
    for _ in range(5):
        half.train_step()
    assert update.skipped == skipped
    assert all(p.isfinite().all() for p in weights(half).values())
    assert not torch.equal(weights(half)["d.layers.0.weight"], before["d.layers.0.weight"])


def test_applied_gradients_are_those_of_float64(setting: str) -> None:
    run = trainer("float16")
    for update in (run.gan.update_d, run.gan.update_g):
        update.loss_scale.value.fill_(SCALE)
    plain = fastgan.unfuse(copy.deepcopy(run.discriminator))
    seen: list[Tensor] = []
    watch = run.discriminator.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    run.train_step()
    watch.remove()
    real, fake = (images.detach() for images in seen[:2])

    def gradients(model: nn.Module, scale: float) -> dict[str, Tensor]:
        dtype = next(model.parameters()).dtype
        with torch.autocast("cpu", torch.float16, enabled=dtype is torch.float32):
            logits = [model(images.to(dtype)) for images in (real, fake)]
            loss = run.gan.loss.discriminator(*logits)
        found = torch.autograd.grad(loss * scale, list(model.parameters()))
        names = dict(model.named_parameters())
        return {name: g / scale for name, g in zip(names, found, strict=True)}

    theirs = gradients(copy.deepcopy(plain), SCALE)
    exact = gradients(copy.deepcopy(plain).double(), 1.0)
    assert run.gan.update_d.skipped == 0
    for name, p in run.discriminator.named_parameters():
        assert_as_exact(name, p.grad, theirs[name], exact[name], floor=torch.float16)
