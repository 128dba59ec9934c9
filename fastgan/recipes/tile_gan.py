"""Levels of a tile game, by a GAN of one-hot maps, and what is measured of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastgan.data import Source
from fastgan.data.levels import TILES, level_text
from fastgan.engine.config import TrainConfig
from fastgan.engine.sampling import sample_images
from fastgan.metrics import Score, pattern_divergence, playable
from fastgan.recipes.recipe import LevelConfig, ModelSpec, Recipe, register_recipe

_SIZE, _WIDTH = 16, 32
PLAYED, STATES = 200, 2000
"""Levels of each kind whose playability is searched for, and the states of a search."""
# The forms of a level follow each other in the data, eight or four.
_FORMS = 8


def level_scores(generator: nn.Module, data: Source, samples: int, seed: int) -> list[Score]:
    """Tile-pattern KL and playability of generated levels, beside those of the data.

    The floor is the KL of every other level against the rest; "shuffled" and "random" are of the
    data with the tiles of each level in random order; "copied" is the share of generated levels
    that stand in the data.
    """
    real = data.some(samples).argmax(1)
    fake = sample_images(generator, samples, seed=seed).argmax(1)
    rng = torch.Generator().manual_seed(seed)
    orders = torch.rand(real.flatten(1).shape, generator=rng).argsort(1)
    shuffled = real.flatten(1).gather(1, orders).view_as(real)
    every = data.some(data.shape[0]).argmax(1)
    odd = (torch.arange(len(every)) // _FORMS % 2).bool()
    setting = {"data": data.name, "fakes": samples, "reals": len(real), "seed": seed}
    scores = []
    for size in (2, 3):
        pairs = {
            "": (real, fake),
            "_floor": (every[odd], every[~odd]),
            "_shuffled": (real, shuffled),
        }
        scores += [
            Score(f"kl{size}{kind}", pattern_divergence(*pair, size, len(TILES)), None, setting)
            for kind, pair in pairs.items()
        ]
    played: dict[str, Any] = {"played": PLAYED, "states": STATES, **setting}
    for kind, levels in {"": fake, "_real": real, "_random": shuffled}.items():
        chosen = levels[torch.linspace(0, len(levels) - 1, min(PLAYED, len(levels))).long()]
        outcomes = [playable(level_text(level).split("\n"), STATES) for level in chosen]
        whole = sum(outcome != "broken" for outcome in outcomes) / len(outcomes)
        scores.append(Score(f"well_formed{kind}", whole, None, played))
        share = outcomes.count("solved") / len(outcomes)
        scores.append(Score(f"playable{kind}", share, None, played))
    return [*scores, Score("copied", _copied(fake, every), None, setting)]


def _copied(fake: Tensor, real: Tensor) -> float:
    known = {level.numpy().tobytes() for level in real.to(torch.uint8)}
    found = [level.numpy().tobytes() in known for level in fake.to(torch.uint8)]
    return sum(found) / len(found)


TILE_GAN = register_recipe(
    Recipe(
        name="tile-gan",
        summary="Sokoban levels as one-hot tile maps, 16x16",
        generator=ModelSpec(
            "tile_generator",
            {"latent_dim": 64, "image_size": _SIZE, "tiles": len(TILES), "width": _WIDTH},
        ),
        discriminator=ModelSpec(
            "dcgan_discriminator",
            {"image_size": _SIZE, "channels": len(TILES), "width": _WIDTH},
        ),
        image_size=_SIZE,
        channels=len(TILES),
        data=LevelConfig(),
        # Without R1 the discriminator soon knows the few levels by heart, and more is worse.
        train=TrainConfig(
            steps=24000,
            lr_g=5e-4,
            lr_d=5e-4,
            ema_decay=0.995,
            regularizer="r1",
            reg_weight=1.0,
            reg_every=4,
        ),
        scores=level_scores,
    )
)
