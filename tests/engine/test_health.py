"""A discriminator that has won and samples that are alike are told, and healthy runs left alone."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from fastgan.engine import TrainConfig, Trainer
from fastgan.engine.health import Health, nearest_distance

from .conftest import Recorder, tiny_data, tiny_trainer


class SameImage(nn.Module):
    """Draws one picture, whatever the noise."""

    latent_dim = 4

    def __init__(self) -> None:
        super().__init__()
        self.picture = nn.Parameter(torch.zeros(1, 1, 8, 8))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.picture.expand(len(z), -1, -1, -1)


def test_a_collapsed_generator_is_reported(tmp_path):
    discriminator = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    config = TrainConfig(steps=6, batch_size=8, sample_every=2, log_every=1, sample_count=16)
    recorder = Recorder()
    result = Trainer(SameImage(), discriminator, tiny_data(), config).fit(
        tmp_path / "run", reporter=recorder
    )
    told = [note for note in recorder.notes if "alike" in note]
    assert len(told) == 1
    assert told[0].startswith("warning: the samples of step 4 are alike")
    assert result.warnings == (told[0].removeprefix("warning: "),)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["diversity"] == 0


def test_a_discriminator_that_has_won_is_reported_once():
    trainer = tiny_trainer()
    health = Health(trainer)
    told = [health.losses({"loss_d": loss}) for loss in [1.0] + [0.001] * 8]
    assert [text is not None for text in told] == [False] * 5 + [True] + [False] * 3
    assert "its loss is 0.001, where one that cannot tell has 1.4" in told[5]
    assert "It may know its 40 images by heart: augment diffaugment or ada" in told[5]
    assert len(health.warnings) == 1


@pytest.mark.parametrize("loss", ["hinge", "lsgan", "relativistic_pairing"])
def test_losses_have_their_own_scale(loss):
    health = Health(tiny_trainer(loss=loss))
    assert [health.losses({"loss_d": 0.1}) for _ in range(9)] == [None] * 9
    assert any(health.losses({"loss_d": 0.0}) for _ in range(9))


def test_what_has_no_scale_is_left_out():
    health = Health(tiny_trainer(loss="wasserstein", norm="none"))
    assert [health.losses({"loss_d": -50.0}) for _ in range(9)] == [None] * 9
    assert health.losses({"loss_reconstruction": 0.0}) is None


def test_samples_as_far_apart_as_real_images_are_healthy():
    trainer = tiny_trainer()
    health = Health(trainer)
    reals = trainer.dataset.images.float() / 127.5 - 1
    assert [health.samples(reals) for _ in range(4)] == [None] * 4
    assert health.diversity == pytest.approx(1)
    few = reals[:3].repeat(10, 1, 1, 1)  # three modes
    assert [health.samples(few) is not None for _ in range(3)] == [False, True, False]


def test_nearest_distance_is_the_median_of_nearest_neighbours():
    images = torch.tensor([0.0, 1, 3, 6]).view(4, 1, 1, 1)
    assert nearest_distance(images) == 1  # of 1, 1, 2 and 3, the lower median
    assert nearest_distance(images[:1]) != nearest_distance(images[:1])
