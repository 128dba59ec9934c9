"""The step towards a picture's style, against the same written out; pictures that can be one."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tolerance import assert_gradients

from fastgan.data import ImageDataset
from fastgan.engine import Batch, StyleObjective, TrainConfig, Trainer
from fastgan.engine.styling import read_style, waves
from fastgan.models import create_model
from fastgan.ops.core.tolerance import FLOOR

from .conftest import tiny_data


def made(generator: str = "resnet_translator", **settings) -> Trainer:
    torch.manual_seed(0)
    own = {k: settings.pop(k) for k in list(settings) if hasattr(StyleObjective, k)}
    discriminator = settings.pop("discriminator", None)
    small = {"blocks": 1} if generator == "resnet_translator" else {"depth": 2}
    return Trainer(
        create_model(generator, width=4, channels=3, **small),
        discriminator and create_model(discriminator, width=4),
        ImageDataset(tiny_data().images.repeat(1, 3, 2, 2)),
        TrainConfig(batch_size=4, sample_count=2, device="cpu", **settings),
        objective=StyleObjective(**{"style_size": 64} | own),
    )


def test_the_step_is_johnsons_with_random_filters():
    trainer = made(content_weight=2.0, style_weight=3.0)
    images = torch.rand(4, 3, 16, 16) * 2 - 1
    step, twin = trainer.step_function, copy.deepcopy(trainer.generator)
    data = Batch(images, None, torch.empty(4, 0))
    metrics = step(trainer.gan, lambda _: data)
    filters = step.features
    half = {}

    def grams(name: str, x: torch.Tensor) -> list[torch.Tensor]:
        half[name] = F.conv2d(F.avg_pool2d(x, 2), filters.textures).clamp(min=0)
        whole = F.conv2d(x, filters.textures).clamp(min=0)
        colours = torch.einsum("nchw,kc->nkhw", x, filters.colours[..., 0, 0])
        colours = (colours + filters.thresholds.view(-1, 1, 1)).clamp(min=0)
        maps = colours, whole, half[name]
        return [torch.einsum("nahw,nbhw->nab", m, m) / m[0, 0].numel() for m in maps]

    grams("given", images)
    wanted, found = grams("style", waves(64)), grams("made", twin(images))
    content = (half["made"] - half["given"]).square().mean()
    errors = [
        (g - w).square().sum((1, 2)) / w.square().sum() for g, w in zip(found, wanted, strict=True)
    ]
    style = torch.stack(errors).mean()
    torch.testing.assert_close(metrics["loss_content"], content.detach())
    # The picture is held in 8 bits.
    torch.testing.assert_close(metrics["loss_style"], style.detach(), rtol=1e-2, atol=0)
    assert filters.textures.sum((2, 3)).abs().max() < FLOOR[torch.float32]
    kept, styled = step.apart(step.maps(twin(images)), images)
    loss = 2 * kept.mean() + 3 * styled.mean()
    assert_gradients(trainer.generator, loss, twin)


def test_the_style_is_learnt():
    trainer = made(lr_g=5e-3, content_weight=0.5)
    data = Batch(torch.rand(4, 3, 16, 16) * 2 - 1, None, torch.empty(4, 0))
    losses = [trainer.step_function(trainer.gan, lambda _: data) for _ in range(40)]
    first, last = (float(found["loss_style"]) for found in (losses[0], losses[-1]))
    assert last < 0.5 * first


def test_the_picture_itself_has_its_style():
    step = StyleObjective(style_size=64).step(torch.nn.Identity(), (3, 64, 64))
    picture = step.windows(2, (64, 64))
    content, style = step.apart(step.maps(picture), picture)
    assert content.abs().max() == 0
    assert style.abs().max() < 1e-8
    assert torch.equal(step.windows(1, (70, 9))[..., 64:, :], picture[:1, :, :6, :9])
    _, others = step.apart(step.maps(torch.zeros(2, 3, 64, 64)), picture)
    assert others.min() > 0.5


def test_a_picture_is_brought_to_its_size(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "grey.png")
    assert read_style(str(tmp_path / "grey.png"), 60, 3).shape == (3, 80, 60)
    assert read_style("waves", 64, 1).shape == (1, 64, 64)


def test_what_is_no_style_is_refused(tmp_path):
    text, plain = tmp_path / "text.png", tmp_path / "plain.png"
    text.write_text("no picture")
    Image.new("RGB", (30, 30), (9, 9, 200)).save(plain)
    for style, message in (
        ("", "style must be a picture's file, or waves, got ''"),
        (str(tmp_path / "none.png"), "none.png"),
        (str(text), "text.png"),
        (str(plain), "style must have a texture, and .*plain.png is of one colour"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            made(style=style)
    for settings, message in (
        ({"style_size": 20}, "style_size must be at least 64, got 20"),
        ({"style_weight": -1.0}, "style_weight must be a number of at least 0"),
        ({"generator": "unet"}, "needs a generator from images, .* got UNet from 1 channels to 3"),
        ({"discriminator": "patch_discriminator"}, "takes no discriminator, got PatchDiscrim"),
        ({"augment": "diffaugment"}, "objective style takes no conditional and no augment"),
    ):
        with pytest.raises(ValueError, match=message):
            made(**settings)
