"""Audio models, from their published layer tables: vocoders and codec discriminators."""

from __future__ import annotations

import random
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm


class HiFiResBlock(nn.Module):
    """HiFi-GAN's residual block of type 1."""

    def __init__(self, width: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()

        def conv(dilation: int) -> nn.Module:
            padding = (kernel - 1) * dilation // 2
            return weight_norm(nn.Conv1d(width, width, kernel, 1, padding, dilation))

        self.convs1 = nn.ModuleList([conv(d) for d in dilations])
        self.convs2 = nn.ModuleList([conv(1) for _ in dilations])

    def forward(self, x: Tensor) -> Tensor:
        for c1, c2 in zip(self.convs1, self.convs2, strict=True):
            xt = F.leaky_relu(x, 0.1)
            xt = c1(xt)
            xt = F.leaky_relu(xt, 0.1)
            xt = c2(xt)
            x = xt + x
        return x


class HiFiGenerator(nn.Module):
    """HiFi-GAN V1: mel spectrogram [N, 80, T] → [N, 1, 256·T]."""

    def __init__(self, width: int = 512, mels: int = 80) -> None:
        super().__init__()
        self.conv_pre = weight_norm(nn.Conv1d(mels, width, 7, 1, 3))
        self.ups = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        for i, (rate, kernel) in enumerate(zip((8, 8, 2, 2), (16, 16, 4, 4), strict=True)):
            c_in, c_out = width >> i, width >> (i + 1)
            up = nn.ConvTranspose1d(c_in, c_out, kernel, rate, (kernel - rate) // 2)
            self.ups.append(weight_norm(up, dim=1))
            self.resblocks.extend([HiFiResBlock(c_out, k, (1, 3, 5)) for k in (3, 7, 11)])
        self.conv_post = weight_norm(nn.Conv1d(c_out, 1, 7, 1, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_pre(x)
        for i in range(4):
            x = F.leaky_relu(x, 0.1)
            x = self.ups[i](x)
            xs = None
            for j in range(3):
                if xs is None:
                    xs = self.resblocks[i * 3 + j](x)
                else:
                    xs += self.resblocks[i * 3 + j](x)
            x = xs / 3
        x = F.leaky_relu(x)
        x = self.conv_post(x)
        return torch.tanh(x)


class PeriodDiscriminator(nn.Module):
    """HiFi-GAN: the signal folded by a period into two dimensions."""

    def __init__(self, period: int, width: int = 32) -> None:
        super().__init__()
        self.period = period
        widths = [1, width, width * 4, width * 16, width * 32]
        steps = [(a, b, 3) for a, b in pairwise(widths)] + [(width * 32, width * 32, 1)]
        self.convs = nn.ModuleList(
            [weight_norm(nn.Conv2d(a, b, (5, 1), (s, 1), (2, 0))) for a, b, s in steps]
        )
        self.conv_post = weight_norm(nn.Conv2d(width * 32, 1, (3, 1), 1, (1, 0)))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        fmap = []
        b, c, t = x.shape
        x = F.pad(x, (0, -t % self.period), "reflect").view(b, c, -1, self.period)
        for conv in self.convs:
            x = conv(x)
            x = F.leaky_relu(x, 0.1)
            fmap.append(x)
        x = self.conv_post(x)
        fmap.append(x)
        return torch.flatten(x, 1, -1), fmap


class ScaleDiscriminator(nn.Module):
    """HiFi-GAN and MelGAN: strided, grouped 1-D convolutions."""

    def __init__(self, width: int = 128, spectral: bool = False) -> None:
        super().__init__()
        norm = spectral_norm if spectral else weight_norm
        w = width
        table = [
            (1, w, 15, 1, 1), (w, w, 41, 2, 4), (w, 2 * w, 41, 2, 16), (2 * w, 4 * w, 41, 4, 16),
            (4 * w, 8 * w, 41, 4, 16), (8 * w, 8 * w, 41, 1, 16), (8 * w, 8 * w, 5, 1, 1),
        ]  # fmt: skip
        self.convs = nn.ModuleList(
            [norm(nn.Conv1d(a, b, k, s, (k - 1) // 2, groups=min(g, a))) for a, b, k, s, g in table]
        )
        self.conv_post = norm(nn.Conv1d(8 * w, 1, 3, 1, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        fmap = []
        for conv in self.convs:
            x = conv(x)
            x = F.leaky_relu(x, 0.1)
            fmap.append(x)
        x = self.conv_post(x)
        fmap.append(x)
        return torch.flatten(x, 1, -1), fmap


class Pairs(nn.Module):
    """HiFi-GAN calls each of its discriminators for the real and for the generated signal."""

    def __init__(self, discriminators: list[nn.Module], pool: bool) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(discriminators)
        self.meanpools = nn.ModuleList([nn.AvgPool1d(4, 2, 2) for _ in discriminators[1:] if pool])

    def forward(self, y: Tensor, y_hat: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        outputs, fmaps = [], []
        for i, d in enumerate(self.discriminators):
            if i > 0 and len(self.meanpools) > 0:
                y, y_hat = self.meanpools[i - 1](y), self.meanpools[i - 1](y_hat)
            for signal in (y, y_hat):
                logits, fmap = d(signal)
                outputs.append(logits)
                fmaps.append(fmap)
        return outputs, fmaps


def hifi_periods(width: int = 32, periods: tuple[int, ...] = (2, 3, 5, 7, 11)) -> nn.Module:
    return Pairs([PeriodDiscriminator(p, width) for p in periods], pool=False)


def hifi_scales(width: int = 128) -> nn.Module:
    return Pairs([ScaleDiscriminator(width, spectral=i == 0) for i in range(3)], pool=True)


class MelGANBlock(nn.Module):
    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.LeakyReLU(0.2),
            nn.ReflectionPad1d(dilation),
            weight_norm(nn.Conv1d(width, width, 3, dilation=dilation)),
            nn.LeakyReLU(0.2),
            weight_norm(nn.Conv1d(width, width, 1)),
        )
        self.shortcut = weight_norm(nn.Conv1d(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.block(x)


def melgan_generator(width: int = 512, mels: int = 80) -> nn.Module:
    layers: list[nn.Module] = [nn.ReflectionPad1d(3), weight_norm(nn.Conv1d(mels, width, 7))]
    for i, r in enumerate((8, 8, 2, 2)):
        c_in, c_out = width >> i, width >> (i + 1)
        up = nn.ConvTranspose1d(c_in, c_out, r * 2, r, r // 2 + r % 2, output_padding=r % 2)
        layers += [nn.LeakyReLU(0.2), weight_norm(up, dim=1)]
        layers += [MelGANBlock(c_out, 3**j) for j in range(3)]
    last = weight_norm(nn.Conv1d(c_out, 1, 7))
    return nn.Sequential(*layers, nn.LeakyReLU(0.2), nn.ReflectionPad1d(3), last, nn.Tanh())


class WaveGANGenerator(nn.Module):
    """WaveGAN: a dense layer, then kernels of 25 and strides of 4; [N, 100] → [N, 1, 16384]."""

    def __init__(self, width: int = 64, latent: int = 100) -> None:
        super().__init__()
        self.width = width
        self.fc = nn.Linear(latent, 256 * width)
        widths = [16 * width, 8 * width, 4 * width, 2 * width, width, 1]
        self.ups = nn.ModuleList(
            [nn.ConvTranspose1d(a, b, 25, 4, 11, output_padding=1) for a, b in pairwise(widths)]
        )

    def forward(self, z: Tensor) -> Tensor:
        x = F.relu(self.fc(z).view(-1, 16 * self.width, 16))
        for up in self.ups[:-1]:
            x = F.relu(up(x))
        return torch.tanh(self.ups[-1](x))


class PhaseShuffle(nn.Module):
    """WaveGAN: shifts the signal by a random number of samples."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def forward(self, x: Tensor) -> Tensor:
        shift = random.randint(-self.n, self.n)
        return F.pad(x, (max(shift, 0), max(-shift, 0)), "reflect")[..., : x.shape[-1]]


class WaveGANDiscriminator(nn.Module):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        widths = [1, width, 2 * width, 4 * width, 8 * width, 16 * width]
        for a, b in pairwise(widths):
            layers += [nn.Conv1d(a, b, 25, 4, 11), nn.LeakyReLU(0.2)]
            if b != widths[-1]:
                layers.append(PhaseShuffle(2))
        self.convs = nn.Sequential(*layers)
        self.fc = nn.Linear(256 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.convs(x).flatten(1))


class EncodecDiscriminator(nn.Module):
    """EnCodec: 2-D convolutions over one complex spectrogram, dilated in time."""

    def __init__(self, width: int = 32, n_fft: int = 1024) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.register_buffer("window", torch.hann_window(n_fft))
        self.convs = nn.ModuleList([weight_norm(nn.Conv2d(2, width, (3, 9), padding=(1, 4)))])
        for d in (1, 2, 4):
            conv = nn.Conv2d(width, width, (3, 9), (1, 2), (d, 4), dilation=(d, 1))
            self.convs.append(weight_norm(conv))
        self.convs.append(weight_norm(nn.Conv2d(width, width, (3, 3), padding=1)))
        self.conv_post = weight_norm(nn.Conv2d(width, 1, (3, 3), padding=1))
        self.activation = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        fmap = []
        z = torch.stft(
            x.squeeze(1), self.n_fft, self.n_fft // 4, window=self.window, center=False,
            normalized=True, return_complex=True,
        )  # fmt: skip
        z = torch.stack([z.real, z.imag], 1).transpose(2, 3)
        for layer in self.convs:
            z = layer(z)
            z = self.activation(z)
            fmap.append(z)
        return self.conv_post(z), fmap


def activated(conv: nn.Module) -> nn.Sequential:
    """DAC's WNConv."""
    return nn.Sequential(weight_norm(conv), nn.LeakyReLU(0.1))


class DACPeriod(nn.Module):
    """DAC's period discriminator."""

    def __init__(self, period: int, width: int = 32) -> None:
        super().__init__()
        self.period = period
        widths = [1, width, width * 4, width * 16, width * 32]
        convs = [activated(nn.Conv2d(a, b, (5, 1), (3, 1), (2, 0))) for a, b in pairwise(widths)]
        convs.append(activated(nn.Conv2d(width * 32, width * 32, (5, 1), 1, (2, 0))))
        self.convs = nn.ModuleList(convs)
        self.conv_post = weight_norm(nn.Conv2d(width * 32, 1, (3, 1), padding=(1, 0)))

    def forward(self, x: Tensor) -> list[Tensor]:
        t = x.shape[-1]
        x = F.pad(x, (0, self.period - t % self.period), mode="reflect")
        x = x.view(x.shape[0], 1, -1, self.period)
        fmap = []
        for layer in self.convs:
            x = layer(x)
            fmap.append(x)
        fmap.append(self.conv_post(x))
        return fmap


class DACBands(nn.Module):
    """DAC's multi-band spectrogram discriminator at one resolution."""

    def __init__(self, width: int = 32, n_fft: int = 512) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.register_buffer("window", torch.hann_window(n_fft))
        edges = [int(f * (n_fft // 2 + 1)) for f in (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)]
        self.bands = list(pairwise(edges))

        def stack() -> nn.ModuleList:
            convs = [activated(nn.Conv2d(2, width, (3, 9), 1, (1, 4)))]
            convs += [activated(nn.Conv2d(width, width, (3, 9), (1, 2), (1, 4))) for _ in range(3)]
            return nn.ModuleList([*convs, activated(nn.Conv2d(width, width, (3, 3), 1, 1))])

        self.band_convs = nn.ModuleList([stack() for _ in self.bands])
        self.conv_post = weight_norm(nn.Conv2d(width, 1, (3, 3), 1, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        z = torch.stft(
            x.squeeze(1), self.n_fft, self.n_fft // 4, window=self.window, return_complex=True
        )
        z = torch.view_as_real(z).permute(0, 3, 2, 1)
        fmap, ends = [], []
        for (low, high), stack in zip(self.bands, self.band_convs, strict=True):
            band = z[..., low:high]
            for layer in stack:
                band = layer(band)
                fmap.append(band)
            ends.append(band)
        fmap.append(self.conv_post(torch.cat(ends, dim=-1)))
        return fmap
