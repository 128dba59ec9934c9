"""The tutorial's DCGAN: its parameter count, Keras' defaults, "same" padding."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastgan.checks import sides
from fastgan.models import TFDCGANDiscriminator, TFDCGANGenerator


def test_parameter_counts_of_the_tutorial() -> None:
    """What Keras' summary() gives, counted by hand from the tutorial's layers.

    Trainable: dense 100·12544, norm 2·12544, k5 256→128, norm 2·128, k5 128→64, norm 2·64, k5 64→1;
    and k5 1→64 with bias, k5 64→128 with bias, dense 6272→1 with bias.
    """
    generator = 1_254_400 + 25_088 + 819_200 + 256 + 204_800 + 128 + 1_600
    discriminator = 1_664 + 204_928 + 6_273
    for model, count in ((TFDCGANGenerator(), generator), (TFDCGANDiscriminator(), discriminator)):
        assert sum(parameter.numel() for parameter in model.parameters()) == count


@pytest.mark.parametrize("image_size", [4, 8, 28, 36, (8, 12)])
def test_multiples_of_four(image_size: int | tuple[int, int]) -> None:
    generator = TFDCGANGenerator(7, image_size, 2, width=2)
    discriminator = TFDCGANDiscriminator(image_size, 2, width=2)
    images = generator(torch.randn(3, 7))
    assert images.shape == (3, 2, *sides(image_size))
    assert discriminator(images).shape == (3,)


@pytest.mark.parametrize(
    ("image_size", "told"),
    [(2, "2: the nearest is 4"), (27, "27: the nearest is 28"), ((8, 30), "8x30: .* is 8x32")],
)
def test_sizes_that_cannot_be_built(image_size: int | tuple[int, int], told: str) -> None:
    for build in (TFDCGANGenerator, TFDCGANDiscriminator):
        with pytest.raises(ValueError, match=f"image_size must be a multiple of 4, got {told}"):
            build(image_size=image_size)


def test_defaults_of_keras() -> None:
    torch.manual_seed(0)
    generator = TFDCGANGenerator()
    norms = [m for m in generator.modules() if hasattr(m, "running_mean")]
    assert len(norms) == 3
    for norm in norms:
        assert (norm.eps, norm.momentum, norm.negative_slope) == (1e-3, 0.01, 0.3)
        assert torch.equal(norm.weight, torch.ones_like(norm.weight))
    for model in (generator, TFDCGANDiscriminator()):
        for layer in model.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                fans = layer.weight[0, 0].numel() * sum(layer.weight.shape[:2])
                limit = (6 / fans) ** 0.5
                assert 0.99 * limit < layer.weight.abs().max() <= limit
                assert layer.bias is None or not layer.bias.any()


def test_strided_convolution_is_the_reflection_of_same_padding() -> None:
    """TensorFlow pads one before and two after; flipped images and kernels turn one into other."""
    torch.manual_seed(0)
    conv = TFDCGANDiscriminator(channels=3, width=4).double().blocks[0].conv
    images = torch.randn(2, 3, 28, 28, dtype=torch.float64)
    flipped = conv.weight.flip(2, 3)
    tensorflow = F.conv2d(F.pad(images.flip(2, 3), (1, 2, 1, 2)), flipped, conv.bias, stride=2)
    torch.testing.assert_close(conv(images), tensorflow.flip(2, 3))


def test_transposed_convolution_is_the_reflection_of_same_padding() -> None:
    """TensorFlow's is its convolution's gradient: the full output less one before, two after."""
    torch.manual_seed(0)
    conv = TFDCGANGenerator(width=4).double().output
    x = torch.randn(2, 4, 14, 14, dtype=torch.float64)
    full = F.conv_transpose2d(x.flip(2, 3), conv.weight.flip(2, 3), stride=2)
    assert full.shape[2] == 31
    tensorflow = full[:, :, 1:-2, 1:-2]
    torch.testing.assert_close(conv(x), tensorflow.flip(2, 3))


def test_whole_generator_is_the_reflection_of_the_tutorial() -> None:
    torch.manual_seed(0)
    generator = TFDCGANGenerator(6, width=2).double().eval()
    for buffer in generator.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    z = torch.randn(3, 6, dtype=torch.float64)

    def norm(x: torch.Tensor, layer: nn.Module, flip: tuple[int, ...] = ()) -> torch.Tensor:
        """Keras' batch norm and LeakyReLU; a 7×7×8 feature order is flipped where asked."""
        mean, var = layer.running_mean, layer.running_var
        if flip:
            mean, var = (t.view(7, 7, 8).flip(flip).flatten() for t in (mean, var))
        return F.leaky_relu(F.batch_norm(x, mean, var, eps=1e-3), 0.3)

    def up(x: torch.Tensor, conv: nn.Module) -> torch.Tensor:
        stride = conv.stride[0]
        full = F.conv_transpose2d(x, conv.weight.flip(2, 3), stride=stride)
        before, after = (2, 2) if stride == 1 else (1, 2)
        return full[:, :, before:-after, before:-after]

    dense = generator.project.dense.weight.view(7, 7, 8, 6).flip(0, 1).reshape(-1, 6)
    x = norm(z @ dense.T, generator.project.norm, flip=(0, 1))
    x = x.view(-1, 7, 7, 8).permute(0, 3, 1, 2)
    for block in generator.blocks:
        x = norm(up(x, block.conv), block.norm)
    tensorflow = torch.tanh(up(x, generator.output))
    torch.testing.assert_close(generator(z), tensorflow.flip(2, 3))
