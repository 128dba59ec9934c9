"""The few-shot networks: what excites what, what is rebuilt of what, shapes and errors."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from onnx_files import NEEDS_ONNX, assert_onnx
from torch import nn

from fastgan.fusion import export
from fastgan.models import create_model
from fastgan.models.few_shot import SkipLayerExcitation

SMALL = {"image_size": 32, "channels": 3, "width": 4, "max_width": 8}


def test_an_excitation_weighs_channels() -> None:
    layer = SkipLayerExcitation(3, 5, (4, 6), 1).double()
    low = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    high = torch.randn(2, 5, 9, 9, dtype=torch.float64)
    squeeze, _, excite, _ = layer.gate
    h = F.leaky_relu(squeeze(F.avg_pool2d(low, 2)), 0.2)
    weights = excite(h).sigmoid()
    assert weights.shape == (2, 5, 1, 1)
    torch.testing.assert_close(layer(low, high), high * weights)


@pytest.mark.parametrize(
    ("image_size", "pairs"), [(128, [(4, 64), (8, 128)]), (48, [(6, 48)]), (16, [(4, 16)])]
)
def test_maps_excite_those_of_sixteen_times_their_sides(image_size, pairs) -> None:
    model = create_model("few_shot_generator", **{**SMALL, "image_size": image_size})
    seen = []
    for layer in model.excitations:
        layer.register_forward_hook(
            lambda _, given, out: seen.append((given[0].shape[2], out.shape[2]))
        )
    images = model(torch.randn(2, model.latent_dim))
    assert images.shape == (2, 3, image_size, image_size)
    assert images.abs().max() <= 1
    assert seen == pairs


@pytest.mark.parametrize("activation", ["leaky_relu", "glu"])
def test_every_parameter_gets_a_gradient(activation: str) -> None:
    torch.manual_seed(0)
    generator = create_model("few_shot_generator", activation=activation, **SMALL)
    discriminator = create_model("few_shot_discriminator", **SMALL)
    logits, loss = discriminator.forward_with_reconstruction(generator(torch.randn(4, 256)))
    assert logits.shape == (4, 5, 5)
    (logits.square().sum() + loss).backward()
    for module in (generator, discriminator):
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("image_size", [32, 80, (64, 96)])
def test_the_whole_and_a_part_are_rebuilt(image_size, monkeypatch) -> None:
    """Against decoders that give the image itself: the part's place has to be that of its map."""
    torch.manual_seed(0)
    size = {**SMALL, "image_size": image_size}
    model = create_model("few_shot_discriminator", spectral=False, **size).double()
    images = torch.rand(2, 3, *model.item_shape[1:], dtype=torch.float64) * 2 - 1
    logits, loss = model.forward_with_reconstruction(images)
    # A batch norm's output depends on the batch alone, which is the same.
    torch.testing.assert_close(model(images), logits)

    given = {}
    for name in ("whole", "part"):
        decoder = getattr(model, name)
        decoder.register_forward_hook(lambda _, x, y, name=name: given.update({name: (x[0], y)}))
    torch.manual_seed(1)
    _, loss = model.forward_with_reconstruction(images)
    *_, before, last = model._maps(images)
    torch.testing.assert_close(given["whole"][0], last)
    torch.manual_seed(1)
    h, w = model.base
    y, x = (int(torch.randint(0, n + 1, (1,))) for n in (h, w))
    torch.testing.assert_close(given["part"][0], before[:, :, y : y + h, x : x + w])
    scale = images.shape[2] // before.shape[2]
    part = images[..., scale * y : scale * (y + h), scale * x : scale * (x + w)]
    expected = 0.0
    for real, name in ((images, "whole"), (part, "part")):
        made = given[name][1]
        cell = real.shape[2] // made.shape[2]
        assert made.shape == F.avg_pool2d(real, cell).shape
        expected = expected + (made - F.avg_pool2d(real, cell)).abs().mean()
    torch.testing.assert_close(loss, expected)


def test_a_down_block_is_the_mean_of_two_ways() -> None:
    model = create_model("few_shot_discriminator", spectral=False, **SMALL).double()
    block = model.blocks[0]
    x = torch.randn(3, 4, 16, 16, dtype=torch.float64)

    def act(layers: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(F.batch_norm(layers.conv(x), None, None, training=True), 0.2)

    with torch.no_grad():
        for norm in (m for m in block.modules() if hasattr(m, "running_mean")):
            norm.weight.fill_(1.0)
    main = act(block.main[1], act(block.main[0], x))
    direct = act(block.direct[1], F.avg_pool2d(x, 2))
    torch.testing.assert_close(block(x), (main + direct) / 2)


def test_spectral_norm_is_of_all_but_the_decoders() -> None:
    model = create_model("few_shot_discriminator", **SMALL)
    names = {name.split(".")[0] for name, _ in model.named_buffers() if name.endswith("_u")}
    assert names == {"input", "blocks", "output"}
    assert copy.deepcopy(model)(torch.zeros(1, 3, 32, 32)).shape == (1, 5, 5)


@NEEDS_ONNX
def test_the_generator_is_exported(tmp_path) -> None:
    torch.manual_seed(0)
    model = create_model("few_shot_generator", latent_dim=8, **SMALL).eval()
    z, path = torch.randn(3, 8), tmp_path / "model.onnx"
    export(model, (z,), path, "onnx", {})
    assert_onnx(path, model, z)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("generator", {"activation": "relu"}, "activation must be one of 'leaky_relu', 'glu', got"),
        ("generator", {"image_size": 33}, "image_size must have sides that are multiples of 2"),
        ("generator", {"width": 0}, "width must be at least 1, got 0"),
        ("generator", {"latent_dim": 0}, "latent_dim must be at least 1, got 0"),
        ("discriminator", {"image_size": 16}, "image_size must have sides of at least 32, got 16"),
        ("discriminator", {"max_width": 0}, "max_width must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_built(name, arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        create_model(f"few_shot_{name}", **{**SMALL, **arguments})


def test_images_of_another_shape() -> None:
    model = create_model("few_shot_discriminator", **SMALL)
    with pytest.raises(ValueError, match=r"images must have shape \[N, 3, 32, 32\]"):
        model(torch.zeros(2, 3, 32, 48))
    with pytest.raises(ValueError, match=r"images must have shape \[N, 3, 32, 32\]"):
        model.forward_with_reconstruction(torch.zeros(2, 1, 32, 32))
