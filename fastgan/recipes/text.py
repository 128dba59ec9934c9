"""Texts by characters: a Wasserstein GAN of windows, and a recurrent language model."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fastgan.data import DataError
from fastgan.data.text import encode, one_hot, unseen
from fastgan.engine.config import TrainConfig
from fastgan.engine.language import negative_log_likelihood
from fastgan.engine.objectives import LanguageObjective
from fastgan.engine.sampling import sample_images
from fastgan.metrics import Score, jensen_shannon
from fastgan.models.text import PRINTABLE
from fastgan.recipes.recipe import ModelSpec, Recipe, TextConfig, register_recipe

_AT_ONCE = 256


def text_scores(generator: Any, data: Any, samples: int, seed: int) -> list[Score]:
    """How near texts are to the end of the data, which was held out.

    `js1` to `js4` are Jensen-Shannon divergences in bits of the shares of 1- to 4-grams; "floor" is
    of as much text that was trained on, "unigram" of characters drawn one by one with their shares
    in it. `bits`, of a language model, is its cross-entropy of a held-out character. All are of as
    many windows of the generator's length, without overlap, evenly spaced: at most `samples`.

    Raises:
        DataError: a text shorter than a window, or nothing held out.
    """
    pair = [_cut(text, generator, samples) for text in data.kept]
    count = min(map(len, pair))
    known, real = (codes[:count] for codes in pair)
    setting = {"data": data.name, "windows": count, "length": generator.length, "seed": seed}
    note = unseen(data.kept.held_out, generator.characters)
    drawn = sample_images(generator, count, seed=seed, batch_size=_AT_ONCE).argmax(1)
    arms = {"": drawn, "_floor": known, "_unigram": _unigrams(known, seed)}
    size = len(generator.characters)
    scores = [
        Score(f"js{n}{arm}", jensen_shannon(codes, real, n, size), None, setting, note)
        for n in range(1, min(4, generator.length) + 1)
        for arm, codes in arms.items()
    ]
    if hasattr(generator, "logits"):
        scores.append(Score("bits", _bits(generator, real), None, setting, note))
    return scores


def _cut(text: str, generator: Any, most: int) -> Tensor:
    """At most so many windows of a text, evenly spaced and apart: codes [N, length]."""
    length = generator.length
    if len(text) < length:
        raise DataError(
            f"{len(text)} characters are trained on, or held out: fewer than a window's {length}"
        )
    windows = encode(text, generator.characters)[: len(text) // length * length].view(-1, length)
    return windows[torch.linspace(0, len(windows) - 1, min(most, len(windows))).long()]


def _unigrams(known: Tensor, seed: int) -> Tensor:
    """As many characters, each drawn for itself with its share in `known`."""
    shares = torch.bincount(known.flatten().long()).double()
    rng = torch.Generator().manual_seed(seed)
    return torch.multinomial(shares, known.numel(), True, generator=rng).view_as(known)


@torch.no_grad()
def _bits(model: Any, real: Tensor) -> float:
    device, total = next(model.parameters()).device, 0.0
    for part in real.split(_AT_ONCE):
        text = one_hot(part, len(model.characters)).to(device)
        total += float(negative_log_likelihood(model, text)) * len(part)
    return total / len(real) / math.log(2)


# Gulrajani et al. 2017 have 512 channels, five blocks, ten updates of the critic and a rate of 1e-4
# on a GPU; these are for minutes on a CPU.
_SHAPE = {"length": 32, "width": 32, "blocks": 2}

TEXT_GAN = register_recipe(
    Recipe(
        name="text-gan",
        summary="windows of 32 characters by a WGAN-GP of 1-D residual blocks; give it --data TEXT",
        generator=ModelSpec("text_generator", _SHAPE),
        discriminator=ModelSpec("text_discriminator", _SHAPE),
        image_size=(32,),
        channels=len(PRINTABLE),
        data=TextConfig(),
        train=TrainConfig(
            steps=20_000,
            batch_size=32,
            loss="wasserstein",
            regularizer="wgan_gp",
            discriminator_steps=2,
            lr_g=1e-3,
            lr_d=1e-3,
            beta1=0.5,
            beta2=0.9,
            ema_decay=0.0,
            sample_every=1000,
            checkpoint_every=1000,
        ),
        scores=text_scores,
    )
)

TEXT_RNN = register_recipe(
    Recipe(
        name="text-rnn",
        summary="windows of 32 characters by an LSTM language model; give it --data TEXT",
        generator=ModelSpec("text_rnn", {"length": 32, "width": 128}),
        discriminator=None,
        image_size=(32,),
        channels=len(PRINTABLE),
        data=TextConfig(),
        objective=LanguageObjective(),
        train=TrainConfig(
            steps=5000,
            batch_size=32,
            lr_g=4e-3,
            beta1=0.9,
            clip_grad=5.0,
            ema_decay=0.0,
            sample_every=1000,
            checkpoint_every=1000,
        ),
        scores=text_scores,
    )
)
