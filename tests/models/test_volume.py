"""GANs of volumes, as the torch.nn layers that they are made of."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fastgan
from fastgan.fusion.explaining import explained
from fastgan.models import VideoGenerator, VolumeDiscriminator, VolumeGenerator

SIZE = (8, 16, 8)


def test_the_generator_is_its_layers():
    model = VolumeGenerator(4, (16, 32, 16), 2, 8, conditions=3).eval()
    z, given = torch.randn(2, 4), torch.randn(2, 3)
    x = torch.cat([z, given], 1)[..., None, None, None]
    for block in (model.project, *model.blocks):
        conv, norm = block[0], block[1]
        x = conv(x)
        stats = norm.running_mean, norm.running_var, norm.weight, norm.bias
        x = F.relu(F.batch_norm(x, *stats, False, 0.1, norm.eps))
    expected = model.output(x).tanh()
    assert expected.shape == (2, *model.item_shape) == (2, 2, 16, 32, 16)
    assert torch.allclose(model(z, given), expected, atol=1e-5)
    assert model.pictures(expected).equal(expected.max(3).values)
    assert model.default_conditions(3).tolist() == [[-1] * 3, [0] * 3, [1] * 3]
    frames = VideoGenerator.pictures(model, expected)
    assert frames.shape == (2, 2, 32, 8 * 16)
    assert frames[..., 16:32].equal(expected[:, :, 2])
    assert VolumeGenerator(4, SIZE, 1, 8).default_conditions(3) is None


def test_chains_run_fused():
    with fastgan.backend("cpu"):
        generator = explained(VolumeGenerator(4, (16, 16, 16), 1, 8), torch.randn(2, 4))
        volumes = torch.randn(2, 1, 16, 16, 16)
        discriminator = explained(VolumeDiscriminator((16, 16, 16), 1, 8), volumes)
    # Three convolutions in each, and none as torch.nn's layers.
    for rows in (generator, discriminator):
        assert [row.form in ("fused", "recompute", "norm_fused") for row in rows] == [True] * 3


def test_the_discriminator_sees_the_condition_and_the_layers():
    volumes, given = torch.rand(3, 1, *SIZE), torch.randn(3, 1)
    model = VolumeDiscriminator(SIZE, 1, 8, conditions=1, norm="none", sums=True).eval()
    logits = model(volumes, given)
    assert logits.shape == (3,)
    assert not torch.allclose(logits, model(volumes, given + 1))
    sums = (volumes + 1).square().sum((3, 4)).flatten(1)
    extra = model.sums(torch.cat([sums, given], 1)).flatten()
    model.sums = None
    assert torch.allclose(logits - model(volumes, given), extra, atol=1e-5)
    spectral = VolumeDiscriminator(SIZE, 1, 8, norm="spectral", sums=True)
    assert sum(isinstance(m, nn.Linear) for m in spectral.modules()) == 2


@pytest.mark.parametrize("size", [(16, 16), (7, 8, 8), (8, 8, 9), (16, 32, 18)])
def test_sizes_that_cannot_be_built(size):
    for kind in (VolumeGenerator, VolumeDiscriminator):
        with pytest.raises(ValueError, match=r"image_size must be \(D, H, W\)"):
            kind(image_size=size)


def test_what_does_not_fit_is_told():
    model = VolumeGenerator(4, SIZE, 1, 8, conditions=1)
    with pytest.raises(ValueError, match=r"conditions must be floating point \[2, 1\], got None"):
        model(torch.randn(2, 4))
    with pytest.raises(ValueError, match=r"\[2, 1\], got torch.float32 of \[2, 2\]"):
        model(torch.randn(2, 4), torch.zeros(2, 2))
    discriminator = VolumeDiscriminator(SIZE, 1, 8)
    with pytest.raises(ValueError, match=r"images must have shape \[N, 1, 8, 16, 8\]"):
        discriminator(torch.zeros(2, 1, 8, 8, 8))
    with pytest.raises(ValueError, match="norm must be 'batch', 'spectral' or 'none'"):
        VolumeDiscriminator(SIZE, norm="instance")
