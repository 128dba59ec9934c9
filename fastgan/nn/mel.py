"""Log-mel spectrograms of waveforms, and waveforms of log-mel spectrograms."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MIN_ENERGY = 1e-5  # of an energy, whose logarithm is taken


def mel_filters(rate: int, n_fft: int, mels: int) -> Tensor:
    """Triangles that share out the n_fft // 2 + 1 frequencies of a spectrum: [mels, frequencies].

    Evenly spaced from 0 to rate / 2 on the mel scale, 2595 log10(1 + f / 700), each of peak 1.
    """
    top = 2595 * math.log10(1 + rate / 2 / 700)
    corners = 700 * (10 ** (torch.linspace(0, top, mels + 2, dtype=torch.float64) / 2595) - 1)
    frequencies = torch.linspace(0, rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    low, middle, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    return torch.minimum(rising, falling).clamp(min=0).float()


class LogMel(nn.Module):
    """Waveforms [N, 1, L] → log-mel spectrograms [N, mels, L / hop].

    Hann windows of n_fft samples every hop of them, magnitudes, natural logarithms of at least
    1e-5. The ends are mirrored, so that there is a frame for every hop samples.

    Args:
        rate: samples a second.
        n_fft, hop: n_fft - hop is even and not negative.
        mels: bands.

    Raises ValueError for arguments that cannot be built, and for lengths that are no multiples of
    hop or below n_fft.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, rate: int, n_fft: int = 512, hop: int = 128, mels: int = 40) -> None:
        super().__init__()
        if min(rate, n_fft, hop, mels) < 1 or n_fft < hop or (n_fft - hop) % 2:
            raise ValueError(
                "rate, n_fft, hop and mels must be positive and n_fft - hop even, got "
                f"{rate}, {n_fft}, {hop}, {mels}"
            )
        self.rate, self.n_fft, self.hop, self.mels = rate, n_fft, hop, mels
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("filters", mel_filters(rate, n_fft, mels), persistent=False)

    def forward(self, sound: Tensor) -> Tensor:
        spectrum = self.spectrum(sound)
        # Its slope at zero has to stay finite.
        magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()
        return (self.filters.to(magnitude.dtype) @ magnitude).clamp(min=_MIN_ENERGY).log()

    def spectrum(self, sound: Tensor) -> Tensor:
        """The complex spectra of its windows: [N, n_fft // 2 + 1, L / hop]."""
        if sound.dim() != 3 or sound.shape[1] != 1:
            raise ValueError(f"sound must be [N, 1, L], got {list(sound.shape)}")
        if sound.shape[2] % self.hop or sound.shape[2] < self.n_fft:
            raise ValueError(
                f"sound must have a multiple of {self.hop} samples, {self.n_fft} at least, got "
                f"{sound.shape[2]}"
            )
        edge = (self.n_fft - self.hop) // 2
        padded = F.pad(sound, (edge, edge), mode="reflect").squeeze(1)
        window = self.window.to(padded.dtype)
        return torch.stft(
            padded, self.n_fft, self.hop, window=window, center=False, return_complex=True
        )

    def overlap_add(self, spectrum: Tensor) -> Tensor:
        """The waveforms [N, 1, T·hop] whose `spectrum` is nearest to [N, n_fft // 2 + 1, T]."""
        window, frames = self.window[:, None], spectrum.shape[2]
        values = torch.fft.irfft(spectrum, self.n_fft, 1) * window
        size, length = (self.n_fft, 1), (frames - 1) * self.hop + self.n_fft
        summed, weight = (
            F.fold(x, (length, 1), size, stride=(self.hop, 1)).squeeze(3)
            for x in (values, window.square().expand(1, -1, frames))
        )
        edge = (self.n_fft - self.hop) // 2
        return (summed / weight.clamp(min=1e-8))[..., edge : length - edge]

    def pictures(self, sound: Tensor) -> Tensor:
        """Spectrograms to look at: [N, 1, mels, L / hop] in [-1, 1], high frequencies on top."""
        least, most = math.log(_MIN_ENERGY), math.log(self.n_fft / 4)  # of a loud tone
        return ((self(sound) - least) / (most - least) * 2 - 1).clamp(-1, 1).flip(1)[:, None]


@torch.no_grad()
def griffin_lim(mel: LogMel, spectrogram: Tensor, iterations: int = 32, seed: int = 0) -> Tensor:
    """Waveforms [N, 1, T·hop] of log-mel spectrograms [N, mels, T] without a network.

    Magnitudes are the least-squares ones of the bands, negative ones zero; phases, random at first,
    those of the waveform that the last ones gave, with a momentum of 0.99 (Griffin, Lim 1984;
    Perraudin, Balazs, Søndergaard 2013).

    ValueError for spectrograms that are shorter than a window.
    """
    if (spectrogram.shape[2] * mel.hop) < mel.n_fft:
        raise ValueError(
            f"spectrogram must have at least {-(-mel.n_fft // mel.hop)} frames, got "
            f"{spectrogram.shape[2]}"
        )
    magnitude = (torch.linalg.pinv(mel.filters) @ spectrogram.exp()).clamp(min=0)
    rng = torch.Generator(magnitude.device).manual_seed(seed)
    turn = torch.empty_like(magnitude).uniform_(0, 2 * math.pi, generator=rng)
    phase = torch.polar(torch.ones_like(turn), turn)
    last = torch.zeros_like(phase)
    for _ in range(iterations):
        found = mel.spectrum(mel.overlap_add(magnitude * phase))
        phase = torch.sgn(found - 0.99 / 1.99 * last)
        last = found
    return mel.overlap_add(magnitude * phase)
