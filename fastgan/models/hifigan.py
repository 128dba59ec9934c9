"""HiFi-GAN: waveforms of log-mel spectrograms, and the discriminators of periods and of scales.

Source: Kong, Kim, Bae 2020, "HiFi-GAN: Generative Adversarial Networks for Efficient and High
Fidelity Speech Synthesis" (arXiv:2010.05646); the generator is that of V3, with its blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from fastgan.checks import check_int
from fastgan.nn import chain
from fastgan.nn.mel import LogMel

from ._registry import register_model

_SLOPE = 0.1


class _ResidualBlock(nn.Module):
    """x + conv(LeakyReLU(x)), once for each dilation."""

    def __init__(self, width: int, kernel: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.act = nn.LeakyReLU(_SLOPE)
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv1d(width, width, kernel, padding=d * (kernel // 2), dilation=d))
            for d in dilations
        )

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = x + chain(x, act=self.act, conv=conv)
        return x


class _Stage(nn.Module):
    """`stride` times the samples, then the mean of a residual block of each kernel."""

    def __init__(
        self, width: int, stride: int, kernels: Sequence[int], dilations: Sequence[Sequence[int]]
    ) -> None:
        super().__init__()
        c_out, odd = max(1, width // 2), stride % 2
        up = nn.ConvTranspose1d(width, c_out, 2 * stride, stride, (stride + odd) // 2, odd)
        self.act, self.up = nn.LeakyReLU(_SLOPE), weight_norm(up)
        both = zip(kernels, dilations, strict=True)
        self.blocks = nn.ModuleList(_ResidualBlock(c_out, k, d) for k, d in both)

    def forward(self, x: Tensor) -> Tensor:
        x = chain(x, act=self.act, up=self.up)
        made: Tensor = sum(block(x) for block in self.blocks)
        return made / len(self.blocks)


@register_model("hifigan_generator")
class HiFiGANGenerator(nn.Module):
    """Log-mel spectrograms [N, mels, T] of `mel` → waveforms [N, 1, T·scale] in [-1, 1].

    Weights are weight-normed; `fastgan.fold` and what is exported have plain ones.

    Args:
        rate: samples a second.
        upsampling: the strides of the transposed convolutions, whose product is the samples from a
            frame of the spectrogram to the next.
        width: channels of the first map, halved with each stage.
        n_fft, mels: of the spectrogram; see `LogMel`.
        kernels, dilations: of the residual blocks of a stage. Kernels are odd.

    Attributes: mel, the `LogMel` of sounds of its rate; scale, the product of `upsampling`; reach,
    the frames on each side that a frame's samples depend on; channels, condition_channels,
    latent_dim, which is 0.

    Raises ValueError for arguments that cannot be built, and in `forward` for other shapes.
    """

    latent_dim, num_classes, channels = 0, 0, 1

    def __init__(
        self,
        rate: int = 22050,
        upsampling: Sequence[int] = (8, 8, 4),
        width: int = 256,
        *,
        n_fft: int = 1024,
        mels: int = 80,
        kernels: Sequence[int] = (3, 5, 7),
        dilations: Sequence[Sequence[int]] = ((1, 2), (2, 6), (3, 12)),
    ) -> None:
        super().__init__()
        for name, values in (("upsampling", upsampling), ("kernels", kernels)):
            if not values or min(values) < 1:
                raise ValueError(f"{name} must be numbers of at least 1, got {values!r}")
        if len(kernels) != len(dilations) or not all(k % 2 for k in kernels):
            raise ValueError(
                "kernels must be odd, with a row of dilations for each, got "
                f"{kernels!r} and {dilations!r}"
            )
        check_int("width", width, 1)
        self.rate, self.scale = check_int("rate", rate, 1), math.prod(upsampling)
        self.condition_channels = check_int("mels", mels, 1)
        self.mel = LogMel(rate, n_fft, self.scale, mels)
        self._arguments: dict[str, Any] = {
            "rate": rate, "upsampling": upsampling, "width": width, "n_fft": n_fft, "mels": mels,
            "kernels": kernels, "dilations": dilations,
        }  # fmt: skip
        widths = [max(1, width >> i) for i in range(len(upsampling) + 1)]
        self.input = weight_norm(nn.Conv1d(mels, width, 7, padding=3))
        both = zip(widths, upsampling, strict=False)
        self.stages = nn.ModuleList(_Stage(w, s, kernels, dilations) for w, s in both)
        self.act = nn.LeakyReLU(_SLOPE)
        self.output = weight_norm(nn.Conv1d(widths[-1], 1, 7, padding=3))
        self.tanh = nn.Tanh()
        reach, samples = 3.0, 1
        widest = max(k // 2 * sum(d) for k, d in zip(kernels, dilations, strict=True))
        for stride in upsampling:
            reach += 1 / samples
            samples *= stride
            reach += widest / samples
        self.reach = math.ceil(reach + 3 / samples) + 1

    def forward(self, spectrogram: Tensor) -> Tensor:
        shape = tuple(spectrogram.shape)
        if len(shape) != 3 or shape[1] != self.condition_channels:
            raise ValueError(
                f"spectrogram must have shape [N, {self.condition_channels}, T], got {list(shape)}"
            )
        x = chain(spectrogram, input=self.input)
        for stage in self.stages:
            x = stage(x)
        return chain(x, act=self.act, output=self.output, tanh=self.tanh)

    def pictures(self, sound: Tensor) -> Tensor:
        """Log-mel spectrograms [N, 1, mels, T] in [-1, 1] of waveforms [N, 1, T·scale]."""
        return self.mel.pictures(sound.float())

    def untrained(self, seed: int) -> HiFiGANGenerator:
        """One of its shape with weights as at the start of a training, in eval mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return HiFiGANGenerator(**self._arguments).eval()


class _Layers(nn.Module):
    """Convolutions, each but the last with a LeakyReLU."""

    def __init__(self, layers: Sequence[nn.Module], output: nn.Module) -> None:
        super().__init__()
        self.layers, self.output = nn.ModuleList(layers), output
        self.act = nn.LeakyReLU(_SLOPE)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits [N, n], and what every layer made, the last one included."""
        seen = []
        for layer in self.layers:
            x = chain(x, layer=layer, act=self.act)
            seen.append(x)
        x = chain(x, output=self.output)
        return x.flatten(1), [*seen, x]


class _PeriodDiscriminator(_Layers):
    """Waveforms, every `period`-th sample apart: 2-D convolutions along one of the two axes."""

    def __init__(self, period: int, width: int) -> None:
        self.period = check_int("periods", period, 1)
        widths = [1, width, 4 * width, 16 * width, 32 * width, 32 * width]
        layers = [
            weight_norm(nn.Conv2d(a, b, (5, 1), (3 if i < 4 else 1, 1), (2, 0)))
            for i, (a, b) in enumerate(pairwise(widths))
        ]
        super().__init__(layers, weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0))))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = F.pad(x, (0, -x.shape[2] % self.period), "reflect")
        return super().forward(x.unflatten(2, (-1, self.period)))


class _ScaleDiscriminator(_Layers):
    """Strided and grouped 1-D convolutions."""

    def __init__(self, width: int, groups: int, *, spectral: bool) -> None:
        norm: Any = spectral_norm if spectral else weight_norm
        w = width
        table = [
            (1, w, 15, 1, 1), (w, w, 41, 2, 4), (w, 2 * w, 41, 2, 16), (2 * w, 4 * w, 41, 4, 16),
            (4 * w, 8 * w, 41, 4, 16), (8 * w, 8 * w, 41, 1, 16), (8 * w, 8 * w, 5, 1, 1),
        ]  # fmt: skip
        layers = [
            norm(nn.Conv1d(a, b, k, s, k // 2, groups=math.gcd(min(most, groups), a)))
            for a, b, k, s, most in table
        ]
        super().__init__(layers, norm(nn.Conv1d(8 * w, 1, 3, padding=1)))


@register_model("hifigan_discriminator")
class HiFiGANDiscriminator(nn.Module):
    """Waveforms [N, 1, L] → logits [N, n], of a discriminator a period and one a scale.

    Those of periods see the samples folded into columns; those of scales the waveform, and the
    waveform averaged over four samples, again and again, with half as many. Weights are
    weight-normed, of the first scale spectrally normed.

    Args:
        width: channels of the first layer of each period, a quarter of each scale's; 32 times as
            many in the last.
        periods: samples.
        scales: how many.
        groups: the most of a scale's convolution. With few channels 1 is the fastest on a CPU.

    Raises ValueError for arguments that cannot be built, and for other shapes.
    """

    channels = 1

    def __init__(
        self,
        width: int = 32,
        *,
        periods: Sequence[int] = (2, 3, 5, 7, 11),
        scales: int = 3,
        groups: int = 16,
    ) -> None:
        super().__init__()
        check_int("width", width, 1)
        check_int("scales", scales, 1, 16)
        check_int("groups", groups, 1)
        self._longest = max(periods, default=1)
        self.periods = nn.ModuleList(_PeriodDiscriminator(p, width) for p in periods)
        self.scales = nn.ModuleList(
            _ScaleDiscriminator(4 * width, groups, spectral=i == 0) for i in range(scales)
        )
        self.halve = nn.AvgPool1d(4, 2, 2)

    def forward(self, sound: Tensor, condition: Tensor | None = None) -> Tensor:
        """`condition` is what the sound was made of, and not looked at."""
        return self.forward_with_features(sound)[0]

    def forward_with_features(self, sound: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The logits, and the feature maps of all layers."""
        shape, longest = tuple(sound.shape), self._longest
        if len(shape) != 3 or shape[1] != 1 or shape[2] < longest:
            raise ValueError(
                f"sound must have shape [N, 1, L], L at least {longest}, got {list(shape)}"
            )
        found = [periodic(sound) for periodic in self.periods]
        for i, scale in enumerate(self.scales):
            sound = self.halve(sound) if i else sound
            found.append(scale(sound))
        return torch.cat([logits for logits, _ in found], 1), [f for _, maps in found for f in maps]
