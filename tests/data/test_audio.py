from __future__ import annotations

import math
import sys

import pytest
import torch

from fastgan.data import DataError
from fastgan.data.audio import as_items, open_audio, read_sound, resampled, save_sound

soundfile = pytest.importorskip("soundfile")
# What is left beside the band, and missing in it, by a window of six zero crossings.
RIPPLE = 1e-3
# Of a file of 16 bits: half a step by rounding, and at most one between 32767 and 32768.
STEP = {"atol": 1.5 / 32768, "rtol": 0}


def tone(rate: int, hertz: float = 440.0, seconds: float = 0.25) -> torch.Tensor:
    return 0.5 * torch.sin(torch.arange(int(rate * seconds)) * (2 * math.pi * hertz / rate))


@pytest.mark.parametrize("rate", [6000, 11025, 44100])
def test_a_tone_keeps_its_pitch_at_another_rate(rate):
    found = resampled(tone(rate), rate, 8000)
    expected = tone(8000)[: len(found)]
    assert len(found) == math.ceil(len(tone(rate)) * 8000 / rate)
    inner = slice(50, len(expected) - 50)
    torch.testing.assert_close(found[: len(expected)][inner], expected[inner], atol=RIPPLE, rtol=0)


def test_what_the_lower_rate_cannot_hold_is_cut_off():
    assert resampled(tone(44100, hertz=9000), 44100, 8000)[50:-50].abs().max() < RIPPLE
    sound = torch.rand(9)
    assert resampled(sound, 8000, 8000) is sound


def test_files_of_any_kind_become_windows_of_one(tmp_path):
    stereo = torch.stack([tone(8000), torch.zeros(2000)], 1)
    soundfile.write(tmp_path / "a.flac", stereo.numpy(), 8000)
    soundfile.write(tmp_path / "b.ogg", tone(16000, seconds=0.5).numpy(), 16000)
    save_sound(tone(8000, seconds=0.05), 8000, tmp_path / "c.wav")
    (tmp_path / "readme.txt").write_text("no sound")
    windows = open_audio(tmp_path, 8000, 1024)
    assert windows.shape == (4 + 12 + 1, 1, 1024)
    assert windows.kept.numbers.tolist() == [0] * 4 + [1] * 12 + [2]
    assert windows.notes == (
        f"{tmp_path}: of 3 clips 1 mixed down from 2 channels, 1 followed by silence up to 1024 "
        "samples, 1 resampled from 16000 Hz to 8000 Hz",
    )
    first, *_, last = windows.some(17)[:, 0]
    torch.testing.assert_close(first, tone(8000)[:1024] / 2, **STEP)
    torch.testing.assert_close(last[:400], tone(8000, seconds=0.05), **STEP)
    assert not last[400:].any()
    batch, _ = windows.batches(4, 0, "cpu").batch(0)
    assert batch.shape == (4, 1, 1024)
    assert batch.dtype == torch.float32
    assert len(open_audio(tmp_path / "c.wav", 8000, 256)) == 3


def test_a_share_of_the_clips_is_held_out(tmp_path):
    for i in range(4):
        save_sound(torch.full((512,), i / 4), 8000, tmp_path / f"{i}.wav")
    windows = open_audio(tmp_path, 8000, 256, held_out=0.5)
    assert windows.kept.numbers.tolist() == [0] * 5 + [2] * 5
    held = as_items(windows.at(windows.kept.held_out))
    assert held.shape == (10, 1, 256)
    torch.testing.assert_close(held[:, 0, 0], torch.tensor([0.25] * 5 + [0.75] * 5), **STEP)
    shown = windows.some(10)[:, 0, 0]
    torch.testing.assert_close(shown, torch.tensor([0.0] * 5 + [0.5] * 5), **STEP)
    assert windows.notes == (f"{tmp_path}: of 4 clips 2 held out",)
    assert not len(open_audio(tmp_path, 8000, 256).kept.held_out)
    with pytest.raises(ValueError, match=r"held_out must lie in \[0, 1\), got 1"):
        open_audio(tmp_path, 8000, 256, held_out=1)


@pytest.mark.parametrize(
    ("content", "message"), [(b"RIFF", "no sound that can be read"), (b"", "")]
)
def test_files_that_are_no_sound_are_named(tmp_path, content, message):
    (tmp_path / "bad.wav").write_bytes(content)
    with pytest.raises(DataError, match=rf"bad\.wav.*{message}"):
        open_audio(tmp_path, 8000, 256)


def test_what_holds_no_sound_is_told(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"a folder without \.wav, \.flac, \.ogg files"):
        open_audio(tmp_path, 8000, 256)
    with pytest.raises(FileNotFoundError):
        open_audio(tmp_path / "none.wav", 8000, 256)
    save_sound(torch.zeros(0), 8000, tmp_path / "empty.wav")
    with pytest.raises(DataError, match=r"empty\.wav: no samples"):
        read_sound(tmp_path / "empty.wav")
    with pytest.raises(ValueError, match="rate must be at least 1, got 0"):
        open_audio(tmp_path, 0, 256)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fastgan\[audio\]'"):
        read_sound(tmp_path / "empty.wav")
