"""WaveGAN: waveforms by 1-D convolutions of 25 taps and stride 4.

Source: Donahue, McAuley, Puckette 2019, "Adversarial Audio Synthesis" (arXiv:1802.04208).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from fastgan.checks import check_int
from fastgan.nn import chain
from fastgan.nn.mel import LogMel

from ._base import Discriminator, Generator
from ._registry import register_model

_SHORTEST = 16  # samples of the first map


def _stages(length: int, width: int) -> list[int]:
    """The channels of the maps, the longest first; ValueError unless length is 16 · 4^k, k ≥ 1."""
    check_int("width", width, 1)
    stages: list[int] = []
    rest = check_int("length", length, 1)
    while rest > _SHORTEST and rest % 4 == 0:
        rest //= 4
        stages.append(width << len(stages))
    if rest != _SHORTEST or not stages:
        raise ValueError(f"length must be 16 times a power of 4 (4096, 16384, 65536), got {length}")
    return stages


@register_model("wavegan_generator")
class WaveGANGenerator(Generator):
    """z [N, latent_dim] → waveforms [N, 1, length] in [-1, 1].

    Args:
        length: samples, 16 times a power of 4.
        rate: samples a second; of pictures and of files alone.
        latent_dim: length of the latent vector.
        width: channels at a quarter of the samples, doubled with each stage towards z.

    Raises ValueError for arguments that cannot be built, and in `forward` for a z of another shape.
    """

    def __init__(
        self, length: int = 16384, rate: int = 16000, latent_dim: int = 100, width: int = 64
    ) -> None:
        stages = _stages(length, width)
        super().__init__(latent_dim, (length,), 1)
        self.rate = check_int("rate", rate, 1)
        self.project = nn.Linear(latent_dim, stages[-1] * _SHORTEST)
        ends = [*reversed(stages), 1]
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise(ends):
            up = nn.ConvTranspose1d(c_in, c_out, 25, stride=4, padding=11, output_padding=1)
            layers += [nn.ReLU(), up]
        self.blocks = nn.Sequential(*layers, nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        x = self.project(self.latent_vectors(z)).unflatten(1, (-1, _SHORTEST))
        return chain(x, blocks=self.blocks)

    def pictures(self, sound: Tensor) -> Tensor:
        """Log-mel spectrograms [N, 1, H, W] in [-1, 1] of what it draws."""
        hop = max(1, sound.shape[2] // 64)
        mel = LogMel(self.rate, n_fft=4 * hop, hop=hop, mels=32).to(sound.device)
        return mel.pictures(sound.float())


class PhaseShuffle(nn.Module):
    """In training, each waveform of [N, C, L] is shifted by -most to most samples, by chance.

    What comes in is the mirrored end.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = check_int("phase_shuffle", most, 0)

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and self.most):
            return x
        length = x.shape[2]
        shift = torch.randint(-self.most, self.most + 1, (len(x), 1), device=x.device)
        place = (torch.arange(length, device=x.device) + shift).abs()
        place = length - 1 - (length - 1 - place).abs()
        return x.gather(2, place[:, None].expand_as(x))


@register_model("wavegan_discriminator")
class WaveGANDiscriminator(Discriminator):
    """Waveforms [N, 1, length] → logits [N].

    Args:
        length, width: as the generator's.
        phase_shuffle: the most samples that a map is shifted by.

    Raises ValueError for arguments that cannot be built, and in `forward` for other shapes.
    """

    def __init__(self, length: int = 16384, width: int = 64, *, phase_shuffle: int = 2) -> None:
        stages = _stages(length, width)
        super().__init__((length,), 1)
        ends = [1, *stages]
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv1d(c_in, c_out, 25, stride=4, padding=11), nn.LeakyReLU(0.2))
            for c_in, c_out in pairwise(ends)
        )
        self.shuffle = PhaseShuffle(phase_shuffle)
        self.output = nn.Linear(stages[-1] * _SHORTEST, 1)

    def forward(self, sound: Tensor) -> Tensor:
        x = self.check_images(sound)
        for i, block in enumerate(self.blocks):
            x = chain(x, block=block)
            if i + 1 < len(self.blocks):
                x = self.shuffle(x)
        return self.output(x.flatten(1)).flatten()
