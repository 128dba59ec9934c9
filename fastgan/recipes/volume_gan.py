"""Volumes drawn for a number, by a GAN of 3-D convolutions, and what is measured of showers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgan.data import Source, normalised
from fastgan.data.showers import cells_of, energies_of, make_showers
from fastgan.engine.config import TrainConfig
from fastgan.engine.sampling import sample_images
from fastgan.metrics import Score, two_sample_auc, wasserstein
from fastgan.recipes.recipe import ModelSpec, Recipe, VolumeConfig, register_recipe

_SHAPE = {"image_size": (16, 16, 16), "channels": 1, "width": 32, "conditions": 1}
_HELD_OUT = 1_000_000
"""Added to a seed: showers that no run has been trained on."""


def shower_scores(generator: nn.Module, data: Source, samples: int, seed: int) -> list[Score]:
    """Of generated showers against as many new ones of the same energies: 1-Wasserstein distances
    of the response, the depth and the width of showers; of the mean profiles; and the AUC of a
    classifier.

    "_floor" is another set of new showers in place of the generated, "_mixed" one whose every cell
    is taken from another shower. Of volumes that are no showers, the AUC is all that is measured.
    """
    if data.name.startswith("showers"):
        real = make_showers(samples, data.shape[2:], _HELD_OUT + seed)
        again = make_showers(samples, data.shape[2:], _HELD_OUT + seed + 1)
        assert real.labels is not None
        assert again.labels is not None
        fake = sample_images(generator, samples, seed=seed, labels=real.labels)
        rng = torch.Generator().manual_seed(seed)
        orders = torch.rand(real.images.flatten(1).shape, generator=rng).argsort(0)
        mixed = real.images.flatten(1).gather(0, orders).view_as(real.images)
        sets = {
            "": (fake, real.labels),
            "_floor": (normalised(again.images, again.value_range), again.labels),
            "_mixed": (normalised(mixed, real.value_range), real.labels),
        }
        truth = normalised(real.images, real.value_range), real.labels
    else:
        some = data.some(2 * samples)
        assert data.labels is not None
        labels = data.labels[torch.linspace(0, len(data.labels) - 1, len(some)).long()]
        reals = normalised(some, data.value_range)
        truth = reals[::2], labels[::2]
        count = len(truth[0])
        fake = sample_images(generator, count, seed=seed, labels=labels[::2].contiguous())
        sets = {"": (fake, labels[::2]), "_floor": (reals[1::2], labels[1::2])}
    setting = {"data": data.name, "fakes": len(fake), "reals": len(truth[0]), "seed": seed}
    scores = []
    for kind, (items, conditions) in sets.items():
        found = {"auc": two_sample_auc(_told(*truth), _told(items, conditions), seed=seed)}
        if data.name.startswith("showers"):
            found = _distances(shapes_of(*truth), shapes_of(items, conditions)) | found
        scores += [Score(name + kind, value, None, setting) for name, value in found.items()]
    return scores


def _told(items: Tensor, conditions: Tensor) -> Tensor:
    """What the classifier is given: cells, those of showers by the root of their energies' shares,
    and the condition."""
    return torch.cat([(items + 1).flatten(1), conditions], 1)


def shapes_of(items: Tensor, conditions: Tensor) -> dict[str, Tensor]:
    """Of each shower: the response (energy seen / energy), the mean depth in layers and the width
    across in cells [N], and the profiles along and across [N, D] and [N, R]."""
    cells, energies = cells_of(items, conditions), energies_of(conditions)
    total = cells.sum((1, 2, 3))
    share = cells / total.clamp_min(1e-12).view(-1, 1, 1, 1)
    places = [torch.arange(n) - (n - 1) / 2 for n in cells.shape[2:]]
    radius = (places[0].square()[:, None] + places[1].square()).sqrt().double()
    along, across = share.sum((2, 3)), share.sum(1)
    layers = torch.arange(cells.shape[1]).double()
    rings = torch.stack(
        [(across * (radius.floor() == r)).sum((1, 2)) for r in range(int(radius.max()) + 1)], 1
    )
    return {
        "response": total / energies,
        "depth": along @ layers,
        "width": (across * radius).sum((1, 2)),
        "along": along,
        "across": rings,
    }


def _distances(real: dict[str, Tensor], fake: dict[str, Tensor]) -> dict[str, float]:
    found = {name: wasserstein(real[name], fake[name]) for name in ("response", "depth", "width")}
    for name in ("along", "across"):
        # Of the mean profiles as distributions over layers or rings of unit distance.
        profiles = [shapes[name].mean(0) for shapes in (real, fake)]
        below = [(p / p.sum()).cumsum(0) for p in profiles]
        found[name] = float((below[0] - below[1]).abs().sum())
    return found


VOLUME_GAN = register_recipe(
    Recipe(
        name="volume-gan",
        summary="calorimeter-like showers 16x16x16 for an energy, 3-D convolutions",
        generator=ModelSpec("volume_generator", {"latent_dim": 64, **_SHAPE}),
        discriminator=ModelSpec("volume_discriminator", {**_SHAPE, "sums": True}),
        image_size=(16, 16, 16),
        channels=1,
        data=VolumeConfig(),
        train=TrainConfig(
            steps=6000, batch_size=32, conditional=True, lr_g=5e-4, lr_d=5e-4, ema_decay=0.995
        ),
        scores=shower_scores,
    )
)
