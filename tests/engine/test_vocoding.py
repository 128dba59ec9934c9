"""The vocoder's step, against the same written out, and clips of any length."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tolerance import assert_as_exact, assert_gradients

from fastgan.data import DataError
from fastgan.data.audio import as_items, save_sound
from fastgan.data.windows import Windows
from fastgan.engine import Batch, TrainConfig, Trainer, VocoderObjective
from fastgan.engine.vocoding import read_clip, read_spectrogram, spectrogram_of, vocode
from fastgan.losses import get_loss
from fastgan.models import HiFiGANDiscriminator, HiFiGANGenerator, create_model

SMALL = {"rate": 8000, "upsampling": (4, 2), "width": 4, "n_fft": 32, "mels": 6}
SMALL |= {"kernels": (3,), "dilations": ((1, 3),)}


def made(generator=None, discriminator=None, **settings) -> Trainer:
    torch.manual_seed(0)
    sounds = Windows(torch.randint(-9, 9, (99,)).short(), torch.arange(9), 64, as_items, "x", {})
    own = {k: settings.pop(k) for k in list(settings) if hasattr(VocoderObjective, k)}
    return Trainer(
        generator or HiFiGANGenerator(**SMALL),
        discriminator or HiFiGANDiscriminator(1, periods=(2,), scales=2, groups=1),
        sounds,
        TrainConfig(batch_size=4, sample_count=2, device="cpu", loss="lsgan", **settings),
        objective=VocoderObjective(**own),
    )


def test_the_step_is_hifigan():
    trainer = made(mel_weight=3.0, feature_weight=2.0, adversarial_weight=0.5)
    trainer.discriminator.eval()  # or the spectral norm's vectors move with each pass
    sounds = torch.rand(4, 1, 64) - 0.5
    twin = copy.deepcopy(trainer.generator)
    metrics = trainer.step_function(trainer.gan, lambda _: Batch(sounds, None, torch.empty(4, 0)))
    mel, after = twin.mel, trainer.discriminator  # whose update comes first
    found = twin(mel(sounds))
    near = sum(
        (a - b.detach()).abs().mean()
        for a, b in zip(
            after.forward_with_features(found)[1],
            after.forward_with_features(sounds)[1],
            strict=True,
        )
    )
    content = (mel(found) - mel(sounds)).abs().mean()
    fooled = get_loss("lsgan").generator(after(found))
    torch.testing.assert_close(metrics["loss_mel"], content.detach())
    torch.testing.assert_close(metrics["loss_g"], fooled.detach())
    torch.testing.assert_close(metrics["loss_features"], near.detach())


def test_gradients_are_those_of_the_weighted_sum():
    trainer = made(
        discriminator=HiFiGANDiscriminator(1, periods=(2, 3), scales=1, groups=1),
        mel_weight=3.0, feature_weight=2.0, adversarial_weight=0.5,
    )  # fmt: skip
    trainer.discriminator.eval()
    sounds = torch.rand(4, 1, 64) - 0.5
    twin = copy.deepcopy(trainer.generator)
    data = Batch(sounds, None, torch.empty(4, 0))
    trainer.step_function(trainer.gan, lambda _: data)
    after, mel = trainer.discriminator, twin.mel
    found = twin(mel(sounds))
    pairs = zip(
        after.forward_with_features(found)[1], after.forward_with_features(sounds)[1], strict=True
    )
    total = 3 * (mel(found) - mel(sounds)).abs().mean()
    total = total + 2 * sum((a - b.detach()).abs().mean() for a, b in pairs)
    total = total + 0.5 * get_loss("lsgan").generator(after(found))
    assert_gradients(trainer.generator, total, twin)


def test_pieces_are_as_the_whole():
    torch.manual_seed(0)
    generator = HiFiGANGenerator(**SMALL).eval()
    given = torch.randn(2, 6, 41)
    whole = generator(given).detach()
    exact = copy.deepcopy(generator).double()(given.double())
    for frames in (1, 7, 41, 100):
        assert_as_exact(f"{frames} frames", vocode(generator, given, frames), whole, exact)
    with pytest.raises(ValueError, match="frames must be at least 1, got 0"):
        vocode(generator, given, 0)
    with pytest.raises(ValueError, match="vocode needs the generator of a vocoder run, got UNet"):
        vocode(create_model("unet", width=4, depth=2), given)


def test_clips_and_spectrograms_are_read(tmp_path):
    pytest.importorskip("soundfile")
    generator = HiFiGANGenerator(**SMALL)
    for length, frames in ((1, 4), (32, 4), (33, 5), (400, 50)):
        sound = torch.rand(length) - 0.5
        assert spectrogram_of(sound, generator).shape == (1, 6, frames)
    torch.testing.assert_close(spectrogram_of(sound, generator), generator.mel(sound[None, None]))
    save_sound(sound, 4000, tmp_path / "clip.wav")
    read, did = read_clip(tmp_path / "clip.wav", generator)
    assert (len(read), did) == (800, ["resampled from 4000 Hz to 8000 Hz"])
    path = tmp_path / "mel.npy"
    for values in (np.ones((6, 5)), np.ones((1, 6, 5), np.float32)):
        np.save(path, values)
        assert torch.equal(read_spectrogram(path, generator), torch.ones(1, 6, 5))
    for bad in (np.ones((5, 6)), np.ones((6, 5), np.int64), np.ones((2, 6, 5)), np.ones((6, 0))):
        np.save(path, bad)
        with pytest.raises(DataError, match=r"must hold a log-mel spectrogram of shape \[6, T\]"):
            read_spectrogram(path, generator)
    np.save(path, np.full((6, 5), np.nan))
    with pytest.raises(DataError, match="holds NaN or infinite values"):
        read_spectrogram(path, generator)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mel_weight": -1.0}, "mel_weight must be a number of at least 0"),
        ({"conditional": True}, "objective vocoder takes no conditional or augment"),
        (
            {"generator": ("unet", {"channels": 1, "width": 2, "depth": 2})},
            "needs a generator that takes log-mel .*, got UNet",
        ),
        (
            {"discriminator": ("wavegan_discriminator", {"length": 64, "width": 1})},
            "needs a discriminator that gives its feature maps, .* got WaveGANDiscriminator",
        ),
    ],
)
def test_it_refuses(settings, message):
    for part in settings.keys() & {"generator", "discriminator"}:
        name, arguments = settings[part]
        settings = settings | {part: create_model(name, **arguments)}
    with pytest.raises(ValueError, match=message):
        made(**settings)
