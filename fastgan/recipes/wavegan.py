"""Short sounds by a WaveGAN, and what is measured of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgan.data.audio import as_items
from fastgan.engine.config import TrainConfig
from fastgan.engine.sampling import sample_images
from fastgan.metrics import Score
from fastgan.metrics.sound import FEATURES, sound_distance
from fastgan.recipes.recipe import AudioConfig, ModelSpec, Recipe, register_recipe


def sound_scores(generator: Any, data: Any, samples: int, seed: int) -> list[Score]:
    """Fréchet distances in log-mel features: of samples, noise and half of the clips to the others.

    `frechet` is of samples and the second half of the clips, as many of each as that has windows,
    at most `samples`; "_floor" of the first half of the clips; "_noise" of white noise, each as
    loud as a real one.

    ValueError for fewer than two clips.
    """
    numbers = data.kept.numbers
    halves = [data.starts[numbers % 2 == half] for half in (0, 1)]
    count = min(samples, *map(len, halves))
    if count < 2:
        raise ValueError(f"{data.name}: two clips at least are needed, to compare halves")
    known, real = (as_items(data.at(_spread(starts, count))) for starts in halves)
    drawn = sample_images(generator, count, seed=seed)
    rng = torch.Generator().manual_seed(seed)
    loudness = real.square().mean(2, keepdim=True).sqrt()
    noise = (torch.randn(real.shape, generator=rng) * loudness).clamp(-1, 1)
    setting = {
        "features": FEATURES, "data": data.name, "windows": count, "rate": generator.rate,
        "seed": seed,
    }  # fmt: skip
    arms = {"": drawn, "_floor": known, "_noise": noise}
    return [
        Score(f"frechet{arm}", sound_distance(real, sound, generator.rate), None, setting)
        for arm, sound in arms.items()
    ]


def _spread(starts: Tensor, count: int) -> Tensor:
    return starts[torch.linspace(0, len(starts) - 1, count).long()]


# Donahue et al. 2019 have 16,384 samples of 16 kHz, 64 channels, batches of 64 and five updates of
# the critic; these are for minutes on a CPU.
_SHAPE = {"length": 4096, "width": 8}

WAVEGAN = register_recipe(
    Recipe(
        name="wavegan",
        summary="half seconds of sound at 8 kHz by 1-D transposed convolutions; give it --data",
        generator=ModelSpec("wavegan_generator", {**_SHAPE, "rate": 8000}),
        discriminator=ModelSpec("wavegan_discriminator", _SHAPE),
        image_size=(4096,),
        channels=1,
        data=AudioConfig(),
        train=TrainConfig(
            steps=20_000,
            batch_size=16,
            loss="wasserstein",
            regularizer="wgan_gp",
            discriminator_steps=2,
            lr_g=5e-4,
            lr_d=5e-4,
            beta1=0.5,
            beta2=0.9,
            ema_decay=0.99,
            sample_count=16,
            sample_every=1000,
            checkpoint_every=1000,
        ),
        scores=sound_scores,
    )
)
