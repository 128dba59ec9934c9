from __future__ import annotations

import pytest
import torch

from fastgan.models import PhaseShuffle, WaveGANDiscriminator, WaveGANGenerator, create_model
from fastgan.nn.recording import recording


def test_waveforms_and_their_logits():
    torch.manual_seed(0)
    generator = WaveGANGenerator(256, 8000, latent_dim=5, width=2)
    sound = generator(torch.randn(3, 5))
    assert sound.shape == (3, *generator.item_shape) == (3, 1, 256)
    assert sound.abs().max() <= 1
    assert WaveGANDiscriminator(256, 2)(sound).shape == (3,)
    pictures = generator.pictures(sound)
    assert pictures.shape == (3, 1, 32, 64)
    assert pictures.abs().max() <= 1


def test_every_convolution_runs_with_its_activation():
    with recording() as runs:
        sound = WaveGANGenerator(256, 8000, 5, 2)(torch.randn(2, 5))
        WaveGANDiscriminator(256, 2)(sound)
    ran = [(r.block.after.name, r.form) for r in runs if r.block.conv is not None]
    assert [name for name, _ in ran] == ["relu", "tanh", "leaky_relu", "leaky_relu"]
    assert all(form not in ("", "unfused") for _, form in ran)


def test_phase_shuffle_moves_each_waveform_as_a_whole():
    torch.manual_seed(0)
    x = torch.arange(8.0).expand(200, 3, 8)
    shuffled = PhaseShuffle(2)(x)
    assert torch.equal(shuffled[:, 0], shuffled[:, 1])
    rows = {tuple(row) for row in shuffled[:, 0].int().tolist()}
    assert rows == {
        (2, 1, 0, 1, 2, 3, 4, 5),
        (1, 0, 1, 2, 3, 4, 5, 6),
        (0, 1, 2, 3, 4, 5, 6, 7),
        (1, 2, 3, 4, 5, 6, 7, 6),
        (2, 3, 4, 5, 6, 7, 6, 5),
    }
    assert PhaseShuffle(2).eval()(x) is x
    assert PhaseShuffle(0)(x) is x


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "wavegan_generator",
            {"length": 1000},
            "16 times a power of 4 .*, got 1000",
        ),
        ("wavegan_discriminator", {"length": 16}, "length must be 16 times a power of 4"),
        ("wavegan_generator", {"rate": 0}, "rate must be at least 1, got 0"),
        (
            "wavegan_discriminator",
            {"phase_shuffle": -1},
            "phase_shuffle must be at least 0",
        ),
    ],
)
def test_what_cannot_be_built(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        create_model(name, **arguments)
