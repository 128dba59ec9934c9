"""Log-mel spectrograms of waveforms."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEAST = 1e-5  # of an energy, whose logarithm is taken


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
        spectrum = torch.stft(
            padded, self.n_fft, self.hop, window=window, center=False, return_complex=True
        )
        # Its slope at zero has to stay finite.
        magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()
        return (self.filters.to(padded.dtype) @ magnitude).clamp(min=_LEAST).log()

    def pictures(self, sound: Tensor) -> Tensor:
        """Spectrograms to look at: [N, 1, mels, L / hop] in [-1, 1], high frequencies on top."""
        least, most = math.log(_LEAST), math.log(self.n_fft / 4)  # of a loud tone
        return ((self(sound) - least) / (most - least) * 2 - 1).clamp(-1, 1).flip(1)[:, None]
