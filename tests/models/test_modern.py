"""The modern networks: their start, export, and errors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from onnx_files import NEEDS_ONNX, assert_onnx
from torch import nn

from fastgan.fusion import export
from fastgan.models import create_model
from fastgan.models.modern import start_as_interpolation

SMALL = {"image_size": 16, "channels": 3, "width": 4, "max_width": 8}


def test_the_generator_starts_as_interpolation() -> None:
    """Away from the borders, where zeros come in."""
    layer = nn.ConvTranspose2d(3, 5, 4, 2, 1, bias=False).double()
    start_as_interpolation(layer)
    mix = layer.weight[:, :, 1, 1] / 0.75**2
    x = torch.randn(2, 3, 6, 7, dtype=torch.float64)
    mixed = torch.einsum("nihw,io->nohw", x, mix)
    doubled = F.interpolate(mixed, scale_factor=2.0, mode="bilinear", align_corners=False)
    inside = ..., slice(1, -1), slice(1, -1)
    torch.testing.assert_close(layer(x)[inside], doubled[inside])


def test_its_first_images_have_no_checkerboard() -> None:
    """The part of a 2×2 checkerboard, beside that of DCGAN's own start."""
    found = []
    for name in ("modern_generator", "dcgan_generator"):
        torch.manual_seed(0)
        model = create_model(name, latent_dim=16, width=8, image_size=32)
        with torch.no_grad():
            images = model(torch.randn(8, 16))
        sign = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).expand(3, 1, 2, 2)
        board = F.conv2d(images, sign / 4, groups=3)
        found.append((board.std() / images.std()).item())
    assert found[0] < 0.25 * found[1]


@pytest.mark.parametrize("image_size", [28, 64, (32, 48)])
def test_signals_start_at_unit_size(image_size) -> None:
    torch.manual_seed(0)
    generator = create_model("modern_generator", image_size=image_size)
    discriminator = create_model("modern_discriminator", image_size=image_size)
    with torch.no_grad():
        images = generator(torch.randn(32, 128))
        logits = discriminator(torch.randn(128, *images.shape[1:]))
    assert 0.2 < images.std() < 0.8
    assert 0.3 < logits.std() < 3


def test_the_discriminator_treats_images_apart() -> None:
    torch.manual_seed(0)
    model = create_model("modern_discriminator", **SMALL).double()
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(model(x), torch.cat([model(image[None]) for image in x]))


@NEEDS_ONNX
def test_the_generator_is_exported(tmp_path) -> None:
    torch.manual_seed(0)
    model = create_model("modern_generator", latent_dim=8, **SMALL).eval()
    z, path = torch.randn(3, 8), tmp_path / "model.onnx"
    export(model, (z,), path, "onnx", {})
    assert_onnx(path, model, z)


@pytest.mark.parametrize("part", ["generator", "discriminator"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 33}, "image_size must have sides that are multiples of 2"),
        ({"image_size": 4}, "image_size must have sides that are multiples of 2"),
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"max_width": 0}, "max_width must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_built(part, arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        create_model(f"modern_{part}", **{**SMALL, **arguments})


def test_inputs_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"images must have shape \[N, 3, 16, 16\]"):
        create_model("modern_discriminator", **SMALL)(torch.zeros(2, 3, 16, 24))
    with pytest.raises(ValueError, match="128"):
        create_model("modern_generator", **SMALL)(torch.zeros(2, 64))
