"""Short films, by a GAN of 3-D convolutions, and what is measured of their motion."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgan.data import Source, normalised
from fastgan.engine.config import TrainConfig
from fastgan.engine.sampling import sample_images
from fastgan.metrics import Score, wasserstein
from fastgan.recipes.recipe import ModelSpec, Recipe, VolumeConfig, register_recipe

_SHAPE = {"image_size": (16, 32, 32), "channels": 1, "width": 32}


def film_scores(generator: nn.Module, data: Source, samples: int, seed: int) -> list[Score]:
    """1-Wasserstein distances, from every other film of the data, of the change from frame to
    frame, the speed and the brightness of generated films.

    "_floor" is the other half of the data, "_still" the films with their first frame for all,
    "_shuffled" with their frames in random order.
    """
    items = data.some(2 * samples)
    films = normalised(items, data.value_range)
    real, again = films[::2], films[1::2]
    fake = sample_images(generator, len(real), seed=seed)
    rng = torch.Generator().manual_seed(seed)
    sets = {
        "": fake,
        "_floor": again,
        "_still": real[:, :, :1].expand_as(real),
        "_shuffled": real[:, :, torch.randperm(real.shape[2], generator=rng)],
    }
    truth = motion_of(real)
    setting = {"data": data.name, "fakes": len(fake), "reals": len(real), "seed": seed}
    return [
        Score(name + kind, wasserstein(truth[name], value), None, setting)
        for kind, items in sets.items()
        for name, value in motion_of(items).items()
    ]


def motion_of(films: Tensor) -> dict[str, Tensor]:
    """Of films [N, C, T, H, W] in [-1, 1], [N] each: the mean absolute difference of frames that
    follow each other, in percent of the range; the mean way of the centre of brightness between
    them, in pixels; and the mean brightness, in percent."""
    light = (films.double().mean(1) + 1) / 2
    weight = light.sum((2, 3)).clamp_min(1e-6)
    rows, columns = (torch.arange(n).double() for n in light.shape[2:])
    centre = torch.stack(
        [(light.sum(3) * rows).sum(2) / weight, (light.sum(2) * columns).sum(2) / weight], 2
    )
    return {
        "change": 100 * light.diff(dim=1).abs().mean((1, 2, 3)),
        "speed": torch.linalg.vector_norm(centre.diff(dim=1), dim=2).mean(1),
        "brightness": 100 * light.mean((1, 2, 3)),
    }


VIDEO_GAN = register_recipe(
    Recipe(
        name="video-gan",
        summary="films of moving digits, 16 frames of 32x32, 3-D convolutions",
        generator=ModelSpec("video_generator", {"latent_dim": 100, **_SHAPE}),
        discriminator=ModelSpec("volume_discriminator", _SHAPE),
        image_size=(16, 32, 32),
        channels=1,
        data=VolumeConfig(data="moving-digits"),
        train=TrainConfig(
            steps=6000, batch_size=32, lr_g=5e-4, lr_d=5e-4, ema_decay=0.995, sample_count=16
        ),
        scores=film_scores,
    )
)
