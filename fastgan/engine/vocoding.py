"""Waveforms of log-mel spectrograms: the step that learns them, and clips of any length.

Source: Kong, Kim, Bae 2020, "HiFi-GAN" (arXiv:2010.05646).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgan.checks import check_int
from fastgan.data.audio import read_sound, resampled
from fastgan.data.npy import map_npy
from fastgan.data.source import DataError
from fastgan.engine.gan import GAN, Batch
from fastgan.engine.translating import Losses, TranslationStep
from fastgan.models import HiFiGANGenerator
from fastgan.nn.mel import LogMel


class VocoderStep(TranslationStep):
    """A GAN's step on waveforms and their log-mel spectrograms, which are the conditions.

    Args:
        mel: the spectrograms that the generator takes.
        mel_weight: of the mean absolute error between the spectrograms of what is made and of the
            waveform.
        feature_weight: of the sum over all feature maps of the discriminator of their mean absolute
            error.
        adversarial_weight: of the generator's loss, which is a mean over all logits; with 0 the
            discriminator is neither used nor trained.
    """

    def __init__(
        self,
        mel: LogMel,
        mel_weight: float = 45.0,
        feature_weight: float = 2.0,
        adversarial_weight: float = 16.0,
    ) -> None:
        super().__init__("mel", mel_weight, feature_weight, adversarial_weight)
        self.mel = mel

    def given(self, images: Tensor, labels: Tensor | None) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):  # logarithms of small numbers
            wide = images.to(torch.promote_types(images.dtype, torch.float32))
            spectrogram: Tensor = self.mel(wide)
        return spectrogram

    def content(self, made: Tensor, images: Tensor) -> Tensor:
        return (self.given(made, None) - self.given(images, None)).abs().mean()

    def losses(self, gan: GAN, made: Tensor, part: Batch) -> Losses:
        found = {"loss_mel": (self.content_weight, self.content(made, part.images))}
        if not self.adversarial_weight:
            return found
        discriminator: Any = gan.discriminator
        with gan.running(discriminator):
            logits, features = discriminator.forward_with_features(made)
        with torch.no_grad(), gan.running(discriminator):
            real_logits, seen = discriminator.forward_with_features(part.images)
        apart = [(a - b).abs().mean() for a, b in zip(features, seen, strict=True)]
        fooled = gan.generator_loss(logits, lambda: real_logits)
        found["loss_g"] = self.adversarial_weight, fooled
        found["loss_features"] = self.feature_weight, torch.stack(apart).sum()
        return found


def check_vocoder(generator: nn.Module) -> HiFiGANGenerator:
    """`generator`, or ValueError where it makes no sounds of spectrograms."""
    if not isinstance(generator, HiFiGANGenerator):
        raise ValueError(
            f"vocode needs the generator of a vocoder run, got {type(generator).__name__}"
        )
    return generator


def read_clip(path: Path, generator: HiFiGANGenerator) -> tuple[Tensor, list[str]]:
    """A sound file as float32 [L] at the generator's rate, and in words what was done to it.

    Raises what `read_sound` raises.
    """
    sound, rate, channels = read_sound(path)
    did = [f"mixed down from {channels} channels"] if channels > 1 else []
    if rate != generator.rate:
        did.append(f"resampled from {rate} Hz to {generator.rate} Hz")
    return resampled(sound, rate, generator.rate), did


def spectrogram_of(sound: Tensor, generator: HiFiGANGenerator) -> Tensor:
    """The log-mel spectrogram [1, mels, T] of a sound [L] of any length, silence behind it."""
    mel = generator.mel
    length = max(len(sound), mel.n_fft)
    padded = F.pad(sound, (0, length + -length % mel.hop - len(sound)))
    spectrogram: Tensor = mel(padded[None, None].to(mel.window.device))
    return spectrogram


def read_spectrogram(path: Path, generator: HiFiGANGenerator) -> Tensor:
    """A log-mel spectrogram [1, mels, T] from a .npy of [mels, T] or [1, mels, T].

    OSError, or DataError for a file that holds no such numbers.
    """
    values = map_npy(path)
    mels = generator.condition_channels
    shape = values.shape[1:] if values.ndim == 3 and values.shape[0] == 1 else values.shape
    if len(shape) != 2 or shape[0] != mels or not shape[1] or values.dtype.kind != "f":
        raise DataError(
            f"{path}: must hold a log-mel spectrogram of shape [{mels}, T], floating point, got "
            f"{values.dtype} of {list(values.shape)}"
        )
    if not np.isfinite(values).all():
        raise DataError(f"{path}: holds NaN or infinite values")
    return torch.from_numpy(np.array(values, dtype=np.float32).reshape(1, *shape))


@torch.no_grad()
def vocode(generator: nn.Module, spectrogram: Tensor, frames: int = 4096) -> Tensor:
    """Waveforms [N, 1, T·scale] of log-mel spectrograms [N, mels, T] of any length, on the CPU.

    Worked through in pieces of `frames`, each with those around it that its own samples depend on,
    so that memory is bounded: the whole at once is the same but for rounding.

    ValueError for another generator than a vocoder's, or fewer frames than one.
    """
    check_int("frames", frames, 1)
    generator = check_vocoder(generator)
    device, scale = next(generator.parameters()).device, generator.scale
    pieces = []
    for start in range(0, spectrogram.shape[2], frames):
        end, first = start + frames, max(start - generator.reach, 0)
        made = generator(spectrogram[..., first : end + generator.reach].to(device))
        pieces.append(made[..., (start - first) * scale : (end - first) * scale].float().cpu())
    return torch.cat(pieces, 2)
