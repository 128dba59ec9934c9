"""DCGAN: every size, the widths of the paper, initialisation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastgan import fold
from fastgan.checks import sides
from fastgan.models import DCGANDiscriminator, DCGANGenerator, create_model
from fastgan.ops.core.tolerance import between_networks


@pytest.mark.parametrize("image_size", [8, 12, 14, 16, 20, 28, 48, 64, (12, 20), (80, 48)])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_every_size(image_size: int | tuple[int, int], channels: int) -> None:
    generator = DCGANGenerator(7, image_size, channels, width=2)
    discriminator = DCGANDiscriminator(image_size, channels, width=2)
    images = generator(torch.randn(2, 7))
    assert images.shape == (2, channels, *sides(image_size))
    assert discriminator(images).shape == (2,)


@pytest.mark.parametrize(
    ("image_size", "nearest"),
    [
        (4, "8"),
        (7, "8"),
        (30, "28"),
        (63, "64"),
        (100, "96"),
        ((100, 160), "96x160"),
        ((95, 160), "96x160"),
        ((6, 64), "8x64"),
        ((200, 34), "200x32"),
    ],
)
def test_sizes_that_cannot_be_built(image_size: int | tuple[int, int], nearest: str) -> None:
    got = "x".join(map(str, image_size)) if isinstance(image_size, tuple) else image_size
    match = f"image_size must have sides .* got {got}: the nearest is {nearest}$"
    for build in (lambda: DCGANGenerator(10, image_size), lambda: DCGANDiscriminator(image_size)):
        with pytest.raises(ValueError, match=match):
            build()
    size = [int(side) for side in nearest.split("x")]
    assert DCGANDiscriminator((size[0], size[-1]), width=2) is not None


def test_widths_of_the_paper() -> None:
    """Figure 1 of the paper: 4×4×1024 → 512 → 256 → 128 → 3 at 64×64."""
    generator = DCGANGenerator(width=128)
    convs = [m for m in generator.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert [conv.out_channels for conv in convs] == [1024, 512, 256, 128, 3]


def test_max_width_caps_both_networks() -> None:
    generator = DCGANGenerator(10, 128, 3, width=8, max_width=20)
    discriminator = DCGANDiscriminator(128, 3, width=8, max_width=20)
    up = [m.out_channels for m in generator.modules() if isinstance(m, nn.ConvTranspose2d)]
    down = [m.out_channels for m in discriminator.modules() if isinstance(m, nn.Conv2d)]
    assert up == [20, 20, 20, 16, 8, 3]
    assert down == [8, 16, 20, 20, 20, 1]


def test_no_bias_under_a_norm_and_none_of_norm_at_the_ends() -> None:
    generator, discriminator = DCGANGenerator(10, 32, width=2), DCGANDiscriminator(32, width=2)
    assert set(generator.state_dict()) == {
        *(f"{block}.conv.weight" for block in ("project", "blocks.0", "blocks.1")),
        *(
            f"{block}.norm.{name}"
            for block in ("project", "blocks.0", "blocks.1")
            for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        ),
        *("output.weight", "output.bias"),
    }
    names = set(discriminator.state_dict())
    assert {"blocks.0.conv.bias", "output.bias", "blocks.1.norm.weight"} <= names
    assert not names & {"blocks.0.norm.weight", "output.norm.weight", "blocks.1.conv.bias"}


def test_without_norm_every_convolution_has_a_bias() -> None:
    for model in (DCGANGenerator(10, 16, norm="none"), DCGANDiscriminator(16, norm="none")):
        convs = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
        assert all(conv.bias is not None for conv in convs)
        assert not list(model.buffers())


def test_unknown_norm() -> None:
    with pytest.raises(ValueError, match="norm must be 'batch' or 'none', got 'spectral'"):
        DCGANGenerator(norm="spectral")
    with pytest.raises(ValueError, match="'batch' or 'spectral' or 'none', got 'layer'"):
        DCGANDiscriminator(norm="layer")


def test_initialisation_of_the_paper() -> None:
    torch.manual_seed(0)
    for model in (DCGANGenerator(), DCGANDiscriminator()):
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                assert not parameter.any(), name
                continue
            # Five standard errors: a sample of this size strays further once in a million.
            mean, n = float("norm" in name), parameter.numel()
            assert abs(parameter.mean().item() - mean) < 5 * 0.02 / n**0.5, name
            assert abs(parameter.std().item() / 0.02 - 1) < 5 / (2 * n) ** 0.5, name


@pytest.mark.parametrize("name", ["dcgan_generator", "tf_dcgan_generator"])
def test_folded_whole(name: str) -> None:
    """Each convolution with its own activation, in one step; another z is refused as before."""
    generator = create_model(name, image_size=16, channels=1, width=4, latent_dim=3).eval()
    z = torch.randn(2, 3)
    with torch.no_grad():
        expected, folded = generator(z), fold(generator)
        far = float((folded(z) - expected).abs().max() / expected.abs().max())
    assert far <= between_networks(torch.float32)
    if name == "dcgan_generator":  # without a copy of the weight at each call
        assert folded.project.conv.weight.permute(0, 2, 3, 1).is_contiguous()
    report = folded.fusion_report
    assert not report.untraced
    assert report.fused == len(report) >= 3
    with pytest.raises(ValueError, match=r"z must have shape \[N, 3\]"):
        folded(torch.randn(2, 4))
