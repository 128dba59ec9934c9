"""Samples as they are asked for: truncated, accepted by the discriminator, by which statistics."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from fastgan.engine import (
    batch_statistics,
    rejection_sample,
    sample_images,
    standing_statistics,
    truncated,
)
from fastgan.engine.latents import draw_noise
from fastgan.engine.rejection import _score
from fastgan.models import Generator, create_model

from .conftest import TINY


class Values(Generator):
    """Images of one pixel: the mean of z, or the label and a little of it."""

    def __init__(self, num_classes: int = 0) -> None:
        super().__init__(latent_dim=1, image_size=1, channels=1)
        self.num_classes = num_classes
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        values = z[:, 0] if labels is None else labels + 0.1 * z[:, 0]
        return (values * self.weight).view(-1, 1, 1, 1)


class Likes(nn.Module):
    """Logits that rise with the pixel, and class outputs where asked for."""

    def __init__(self, slope: float = 2.0, classes: bool = False) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))
        self.classes = classes

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
        values = images.flatten() if labels is None else images.flatten() - labels
        logits = self.slope * values
        return (logits, torch.zeros(len(images), 3)) if self.classes else logits


def test_truncated_noise_has_the_truncated_normal_distribution():
    noise = torch.randn(2000, 3)
    cut = truncated(noise, 0.7)
    expected = stats.truncnorm.ppf(stats.norm.cdf(noise.double()), -0.7, 0.7)
    # The result is rounded to float32; SciPy's is not.
    torch.testing.assert_close(cut.double(), torch.from_numpy(expected), rtol=1e-5, atol=1e-6)
    assert cut.dtype == noise.dtype
    assert cut.abs().max() <= 0.7
    far = truncated(torch.tensor([-40.0, 40.0]), 9.0)
    assert far.tolist() == [-9.0, 9.0]
    torch.testing.assert_close(truncated(noise, 20.0), noise)


@pytest.mark.parametrize("threshold", [0.0, -1.0, math.nan, math.inf])
def test_a_threshold_is_a_positive_number(threshold):
    with pytest.raises(ValueError, match="truncation must be a positive number"):
        sample_images(Values(), 2, truncation=threshold)


def test_samples_can_be_followed_from_one_threshold_to_another():
    plain, cut = (sample_images(Values(), 50, truncation=t).flatten() for t in (None, 0.5))
    assert torch.equal(plain.argsort(), cut.argsort())
    assert cut.abs().max() <= 0.5 < plain.abs().max()


def test_the_score_is_the_logit_of_the_density_ratio():
    logits = torch.tensor([-5.0, -1.0, 0.5], dtype=torch.float64)
    chance = torch.sigmoid(_score(logits, torch.tensor(1.0, dtype=torch.float64)))
    # Equal but for the ε that keeps the score of the highest logit finite.
    torch.testing.assert_close(chance, (logits - 1).exp(), rtol=1e-6, atol=0)


def test_the_discriminator_lets_likely_images_pass():
    found = rejection_sample(Values(), Likes(), 400, quantile=0.5)
    assert found.images.shape == (400, 1, 1, 1)
    # With exp(2 z) / constant as the density ratio a standard normal moves upwards.
    assert found.images.mean() > 0.5
    assert 400 < found.drawn < 400 * 8
    pickier = rejection_sample(Values(), Likes(), 400, quantile=0.95)
    assert pickier.images.mean() > found.images.mean() + 0.2
    assert pickier.drawn > found.drawn


def test_accepted_images_do_not_depend_on_how_many_are_asked_for():
    few = rejection_sample(Values(), Likes(), 5, seed=3).images
    many = rejection_sample(Values(), Likes(), 20, seed=3, batch_size=7).images
    assert torch.equal(few, many[:5])
    other = rejection_sample(Values(), Likes(), 5, seed=4).images
    assert not torch.equal(few, other)


def test_rejection_keeps_classes_and_reads_logits_before_class_outputs():
    labels = torch.tensor([2, 0, 2, 1])
    found = rejection_sample(Values(3), Likes(classes=True), 4, labels=labels, truncation=1.0)
    assert found.images.flatten().round().tolist() == [2, 0, 2, 1]


def test_labels_are_a_tensor_of_classes():
    generator = Values(3)
    for labels, message in (([0, 3], "got 3"), ([0, -1], "got -1")):
        with pytest.raises(ValueError, match=rf"labels must lie in 0..2, {message}"):
            sample_images(generator, 2, labels=torch.tensor(labels))
    with pytest.raises(TypeError, match=r"labels must be a Tensor, got \[0, 1\] of type list"):
        sample_images(generator, 2, labels=[0, 1])


def test_what_rejection_refuses():
    with pytest.raises(ValueError, match=r"rejection must lie in \[0, 1\), got 1"):
        rejection_sample(Values(), Likes(), 2, quantile=1)
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        rejection_sample(Values(), Likes(), 0)
    with pytest.raises(ValueError, match="logits of generated images are not finite"):
        rejection_sample(Values(), Likes(math.nan), 2)


def _generator() -> nn.Module:
    torch.manual_seed(0)
    return create_model("dcgan_generator", latent_dim=4, **TINY).eval()


def test_batch_statistics_are_those_of_training_and_leave_no_trace():
    generator = _generator()
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    plain = sample_images(generator, 8)
    with batch_statistics(generator):
        images = sample_images(generator, 8)
    assert not generator.training
    assert not any(module.training for module in generator.modules())
    for name, value in generator.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert torch.equal(sample_images(generator, 8), plain)
    torch.testing.assert_close(images, sample_images(generator.train(), 8))
    assert not torch.allclose(images, plain)


def test_standing_statistics_are_averages_over_batches():
    generator, means = _generator(), []
    for noise in draw_noise(generator, 12, 1).split(4):
        alone = _generator().train()
        norm = _first_norm(alone)
        norm.momentum = 1.0
        alone(noise)
        means.append(norm.running_mean.clone())
    norm = _first_norm(generator)
    momentum = norm.momentum
    assert standing_statistics(generator, batches=3, batch_size=4, seed=1) is generator
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(0))
    assert (norm.momentum, generator.training, norm.training) == (momentum, False, False)


def _first_norm(generator: nn.Module) -> nn.modules.batchnorm._BatchNorm:
    return next(m for m in generator.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))


def test_statistics_of_a_generator_without_batch_norm():
    with pytest.raises(ValueError, match="Values has no batch norm"), batch_statistics(Values()):
        pass
    with pytest.raises(ValueError, match="Values has no batch norm"):
        standing_statistics(Values())
    with pytest.raises(ValueError, match="batches must be at least 1, got 0"):
        standing_statistics(_generator(), batches=0)
