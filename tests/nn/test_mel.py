from __future__ import annotations

import math

import pytest
import torch

from fastgan.nn.mel import LogMel, griffin_lim, mel_filters


def test_a_tone_is_loudest_in_its_band():
    rate, hertz = 8000, 1000.0
    sound = torch.sin(torch.arange(2048) * (2 * math.pi * hertz / rate))[None, None]
    spectrum = LogMel(rate, 512, 128, 40)(sound)
    assert spectrum.shape == (1, 40, 16)
    band = int(mel_filters(rate, 512, 40)[:, round(hertz / rate * 512)].argmax())
    assert (spectrum[0].argmax(0) == band).all()
    assert LogMel(rate, 512, 128, 40)(torch.zeros_like(sound)).max() < -4
    picture = LogMel(rate, 512, 128, 40).pictures(sound)
    assert picture[0, 0].argmax(0).eq(39 - band).all()


def test_filters_share_out_the_frequencies():
    filters = mel_filters(16000, 512, 20)
    assert filters.shape == (20, 257)
    inner = filters[:, 20:200].sum(0)  # neighbours overlap to a sum that is near one
    assert (inner > 0.6).all()
    assert (inner < 1.4).all()


def test_it_has_a_finite_slope_at_silence():
    sound = torch.zeros(1, 1, 512, requires_grad=True)
    LogMel(8000, 256, 64, 8)(sound).sum().backward()
    assert sound.grad.isfinite().all()


def test_spectra_give_their_waveforms_back():
    draw = torch.Generator().manual_seed(0)
    sound = torch.randn(2, 1, 1024, generator=draw, dtype=torch.float64)
    for mel in (LogMel(8000, 256, 64, 8).double(), LogMel(8000, 512, 128, 8).double()):
        torch.testing.assert_close(mel.overlap_add(mel.spectrum(sound)), sound)


def test_griffin_lim_finds_a_waveform_of_a_spectrogram():
    mel = LogMel(8000, 256, 64, 40)
    sound = torch.sin(torch.arange(2048) * 0.5)[None, None] / 2
    given = mel(sound)
    apart = [float((mel(griffin_lim(mel, given, n)) - given).abs().mean()) for n in (0, 32)]
    assert apart[1] < 0.5 * apart[0]
    assert torch.equal(griffin_lim(mel, given, 2, seed=1), griffin_lim(mel, given, 2, seed=1))
    with pytest.raises(ValueError, match="at least 4 frames, got 3"):
        griffin_lim(mel, given[..., :3])


@pytest.mark.parametrize(
    ("arguments", "shape", "message"),
    [
        ((8000, 256, 65), (1, 1, 512), "n_fft - hop even, got 8000, 256, 65, 40"),
        ((8000, 256, 64), (1, 1, 500), "a multiple of 64 samples, 256 at least, got 500"),
        ((8000, 256, 64), (1, 2, 512), r"sound must be \[N, 1, L\], got \[1, 2, 512\]"),
    ],
)
def test_what_does_not_fit(arguments, shape, message):
    with pytest.raises(ValueError, match=message):
        LogMel(*arguments)(torch.zeros(shape))
