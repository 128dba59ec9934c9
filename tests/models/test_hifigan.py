from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fastgan.models import HiFiGANDiscriminator, HiFiGANGenerator, create_model
from fastgan.nn.recording import recording

SMALL = {"rate": 8000, "upsampling": (4, 3), "width": 8, "n_fft": 24, "mels": 5}


def test_sizes_are_those_of_the_paper():
    def count(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters() if p.dim() > 1)

    with torch.device("meta"):
        # 1.46 million of V3 and 70.7 million, biases and norms not counted.
        assert count(HiFiGANGenerator()) // 10_000 == 146
        assert count(HiFiGANDiscriminator()) // 100_000 == 706


def test_a_frame_becomes_its_samples():
    torch.manual_seed(1)
    generator = HiFiGANGenerator(**SMALL)
    assert (generator.scale, generator.mel.hop, generator.condition_channels) == (12, 12, 5)
    sound = generator(torch.randn(2, 5, 7))
    assert sound.shape == (2, 1, 84)
    assert sound.abs().max() <= 1
    assert generator.pictures(sound).shape == (2, 1, 5, 7)
    first, second = generator.untrained(0), generator.untrained(0)
    given = torch.randn(1, 5, 4)
    assert torch.equal(first(given), second(given))
    assert not torch.equal(first(given), generator(given))


def test_samples_depend_on_what_is_in_reach_alone():
    torch.manual_seed(0)
    generator = HiFiGANGenerator(**SMALL, kernels=(3,), dilations=((1, 3),)).double()
    count, at = 4 * generator.reach, 2 * generator.reach
    given = torch.randn(1, 5, count, dtype=torch.float64, requires_grad=True)
    generator(given)[0, 0, at * 12 : (at + 1) * 12].sum().backward()
    (reached,) = given.grad[0].abs().sum(0).nonzero().T
    assert reached.min() >= at - generator.reach
    assert reached.max() <= at + generator.reach
    assert len(reached) >= 2 * generator.reach - 4  # no more than a little is given away


def test_a_period_sees_the_samples_in_columns():
    torch.manual_seed(0)
    discriminator = HiFiGANDiscriminator(1, periods=(3,), scales=1).double().eval()
    sound = torch.randn(2, 1, 62, dtype=torch.float64)
    x = F.pad(sound, (0, 1), "reflect").reshape(2, 1, 21, 3)
    period = discriminator.periods[0]
    maps = []
    for layer in period.layers:
        x = F.leaky_relu(layer(x), 0.1)
        maps.append(x)
    maps.append(period.output(x))
    logits, features = discriminator.forward_with_features(sound)
    assert len(features) == 6 + 8
    for found, expected in zip(features, maps, strict=False):
        torch.testing.assert_close(found, expected)
    ends = [maps[-1].flatten(1), features[-1].flatten(1)]
    torch.testing.assert_close(logits, torch.cat(ends, 1))
    assert torch.equal(discriminator(sound, torch.zeros(2, 5, 1)), logits)


def test_later_scales_see_half_of_the_samples():
    discriminator = HiFiGANDiscriminator(1, periods=(), scales=3)
    features = discriminator.forward_with_features(torch.randn(2, 1, 64))[1]
    assert [f.shape[2] for f in features[::8]] == [64, 33, 17]


def test_which_layers_run_with_their_activation():
    with recording() as runs:
        sound = HiFiGANGenerator(**SMALL)(torch.randn(2, 5, 9))
        HiFiGANDiscriminator(1, periods=(2,), scales=1, groups=1)(sound)
    ran = [r.block.after.name for r in runs if r.block.conv and r.form not in ("", "unfused")]
    # Every layer of the discriminators but the last, and the generator's last one.
    assert (ran.count("leaky_relu"), ran.count("tanh")) == (5 + 7, 1)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("hifigan_generator", {"upsampling": ()}, "upsampling must be numbers of at least 1"),
        ("hifigan_generator", {"kernels": (3, 4, 5)}, "kernels must be odd, with a row of dilat"),
        ("hifigan_generator", {"kernels": (3,)}, "a row of dilations for each, got .3,."),
        ("hifigan_generator", {"n_fft": 100}, "n_fft, hop and mels must be positive"),
        ("hifigan_discriminator", {"periods": (0,)}, "periods must be at least 1, got 0"),
        ("hifigan_discriminator", {"groups": 0}, "groups must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_built(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        create_model(name, **arguments)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"spectrogram must have shape \[N, 5, T\], got \[1, 4, 9"):
        HiFiGANGenerator(**SMALL)(torch.zeros(1, 4, 9))
    with pytest.raises(ValueError, match=r"\[N, 1, L\], L at least 3, got \[1, 1, 2\]"):
        HiFiGANDiscriminator(1, periods=(3,), scales=1)(torch.zeros(1, 1, 2))
