"""Speech of log-mel spectrograms by a HiFi-GAN, and what is measured of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgan.data.audio import as_items
from fastgan.data.dataset import spread
from fastgan.engine.config import TrainConfig
from fastgan.engine.objectives import VocoderObjective
from fastgan.engine.vocoding import vocode
from fastgan.metrics import Score
from fastgan.metrics.sound import STFT_WINDOWS, SpectralDistance
from fastgan.nn.mel import griffin_lim
from fastgan.recipes.recipe import AudioConfig, ModelSpec, Recipe, register_recipe

# Of log-mel spectrograms [N, mels, T], waveforms [N, 1, L], on the CPU.
Way = Callable[[Tensor], Tensor]
_AT_ONCE = 64


@torch.no_grad()
def vocoder_scores(generator: Any, data: Any, samples: int, seed: int) -> list[Score]:
    """How far what is made of windows' log-mel spectrograms is from the windows; see `ways`.

    `mel` and `stft` are those of `SpectralDistance`, of at most `samples` windows of the clips that
    are held out; of those that are trained on where none is, and `clips` of the setting says which.
    """
    held = len(data.kept.held_out) > 0
    mel = generator.mel.cpu()
    found = {name: (way, SpectralDistance(mel)) for name, way in ways(generator, seed).items()}
    count = 0
    for real in held_out_windows(data, samples).split(_AT_ONCE):
        given, count = mel(real), count + len(real)
        for way, distance in found.values():
            distance.update(real, way(given))
    setting = {
        "data": data.name, "clips": "held out" if held else "trained on", "windows": count,
        "samples": data.length, "rate": generator.rate, "n_fft": mel.n_fft, "hop": mel.hop,
        "mels": mel.mels, "stft_windows": list(STFT_WINDOWS), "seed": seed,
    }  # fmt: skip
    return [
        Score(f"{metric}{name}", value, None, setting)
        for name, (_, distance) in found.items()
        for metric, value in (("mel", distance.mel()), ("stft", distance.stft()))
    ]


def ways(generator: Any, seed: int) -> dict[str, Way]:
    """The generator, the same at the start of a training, and Griffin-Lim, by suffix."""
    untrained = generator.untrained(seed)
    return {
        "": lambda given: vocode(generator, given),
        "_initial": lambda given: vocode(untrained, given),
        "_griffin_lim": lambda given: griffin_lim(untrained.mel, given, seed=seed),
    }


def held_out_windows(data: Any, count: int) -> Tensor:
    """At most so many windows [n, 1, L], evenly spaced, of the clips that are held out, if any."""
    starts = data.kept.held_out if len(data.kept.held_out) else data.starts
    return as_items(data.at(starts[torch.tensor(spread(len(starts), count))]))


# Kong et al. 2020 have 22.05 kHz, width 256, strides 8, 8, 4, spectra of 1024 samples and 80 bands,
# windows of 8192 samples, batches of 16, and eight discriminators of width 32 with up to 16 groups,
# and train for two and a half million updates at 2e-4; these are for minutes on a CPU.
VOCODER = register_recipe(
    Recipe(
        name="vocoder",
        summary="speech at 8 kHz from its log-mel spectrogram, by a HiFi-GAN; give it --data",
        generator=ModelSpec(
            "hifigan_generator",
            {"rate": 8000, "upsampling": [8, 8], "width": 64, "n_fft": 256, "mels": 40},
        ),
        discriminator=ModelSpec(
            "hifigan_discriminator",
            {"width": 2, "periods": [2, 3, 5], "scales": 2, "groups": 1},
        ),
        image_size=(2048,),
        channels=1,
        data=AudioConfig(held_out=0.1),
        train=TrainConfig(
            steps=20_000,
            batch_size=8,
            loss="lsgan",
            optimizer="adamw",
            joint_batch=True,
            lr_g=1e-3,
            lr_d=1e-3,
            beta1=0.8,
            beta2=0.99,
            ema_decay=0.99,
            sample_count=16,
            sample_every=1000,
            checkpoint_every=1000,
        ),
        objective=VocoderObjective(adversarial_weight=10),
        scores=vocoder_scores,
    )
)
