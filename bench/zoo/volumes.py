"""Detectors, calorimeters and medical images, from their published layer tables."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvBlock(nn.Module):
    """Darknet: convolution, batch norm, LeakyReLU 0.1."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(c_out)
        self.act = nn.LeakyReLU(0.1, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class DarkResidual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.squeeze = ConvBlock(width, width // 2, 1)
        self.expand = ConvBlock(width // 2, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.expand(self.squeeze(x))


class Darknet53(nn.Module):
    """YOLOv3's backbone, with its classifier."""

    def __init__(self, width: int = 32, classes: int = 10) -> None:
        super().__init__()
        self.stem = ConvBlock(3, width, 3)
        stages, c = [], width
        for repeats in (1, 2, 8, 8, 4):
            residuals = [DarkResidual(c * 2) for _ in range(repeats)]
            stages.append(nn.Sequential(ConvBlock(c, c * 2, 3, 2), *residuals))
            c *= 2
        self.stages = nn.ModuleList(stages)
        self.fc = nn.Linear(c, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class PlainUNet(nn.Module):
    """nnU-Net's plain convolution U-Net: pairs of conv, instance norm, LeakyReLU 0.01."""

    def __init__(self, dims: int, width: int = 32, stages: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.conv = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
        self.norm = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dims]
        up = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[dims]
        widths = [min(width << i, 10 * width) for i in range(stages)]
        self.encoder = nn.ModuleList(
            [
                nn.Sequential(self.block(a, b, 1 if a == 1 else 2), self.block(b, b, 1))
                for a, b in pairwise([1, *widths])
            ]
        )
        deep_to_shallow = list(pairwise(widths[::-1]))
        self.transpconvs = nn.ModuleList([up(a, b, 2, 2) for a, b in deep_to_shallow])
        self.decoder = nn.ModuleList(
            [
                nn.Sequential(self.block(2 * b, b, 1), self.block(b, b, 1))
                for _, b in deep_to_shallow
            ]
        )
        self.seg_layer = self.conv(width, classes, 1)

    def block(self, c_in: int, c_out: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            self.conv(c_in, c_out, 3, stride, 1),
            self.norm(c_out, affine=True),
            nn.LeakyReLU(0.01, inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        for i, (up, stage) in enumerate(zip(self.transpconvs, self.decoder, strict=True)):
            x = up(x)
            x = torch.cat((x, skips[-(i + 2)]), 1)
            x = stage(x)
        return self.seg_layer(x)


class Generator3DGAN(nn.Module):
    """3DGAN: an electromagnetic shower of 25×25×25 cells; activation before batch norm."""

    def __init__(self, width: int = 64, latent: int = 200) -> None:
        super().__init__()
        self.dense = nn.Linear(latent, 8 * 7 * 7 * 8)
        self.blocks = nn.Sequential(
            nn.Conv3d(8, width, (6, 6, 8), padding="same"), nn.LeakyReLU(),
            nn.BatchNorm3d(width), nn.Upsample(scale_factor=2), nn.ZeroPad3d((0, 0, 2, 2, 2, 2)),
            nn.Conv3d(width, 6, (6, 5, 8)), nn.LeakyReLU(), nn.BatchNorm3d(6),
            nn.Upsample(scale_factor=(2, 2, 3)), nn.ZeroPad3d((3, 3, 0, 0, 1, 1)),
            nn.Conv3d(6, 6, (3, 3, 8)), nn.LeakyReLU(), nn.Conv3d(6, 1, 2), nn.ReLU(),
        )  # fmt: skip

    def forward(self, z: Tensor) -> Tensor:
        return self.blocks(self.dense(z).view(-1, 8, 7, 7, 8))


class Discriminator3DGAN(nn.Module):
    """3DGAN: real or not, and the energy of the incoming particle."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        c = width // 4
        layers: list[nn.Module] = [
            nn.Conv3d(1, width, 5, padding=2), nn.LeakyReLU(), nn.Dropout(0.2)
        ]  # fmt: skip
        for c_in, pad in ((width, 2), (c, 2), (c, 1)):
            layers += [nn.ZeroPad3d(pad), nn.Conv3d(c_in, c, 5), nn.LeakyReLU()]
            layers += [nn.BatchNorm3d(c), nn.Dropout(0.2)]
        self.features = nn.Sequential(*layers, nn.AvgPool3d(2), nn.Flatten())
        self.real = nn.Linear(c * 11**3, 1)
        self.energy = nn.Linear(c * 11**3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.features(x)
        return torch.sigmoid(self.real(features)), self.energy(features), x.sum((1, 2, 3, 4))


class LocallyConnected2d(nn.Module):
    """A convolution whose kernel differs at every position."""

    def __init__(
        self, c_in: int, c_out: int, kernel: tuple[int, int], out: tuple[int, int]
    ) -> None:
        super().__init__()
        self.kernel, self.out = kernel, out
        values = c_in * kernel[0] * kernel[1]
        weight = torch.randn(out[0] * out[1], c_out, values) / values**0.5
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(c_out, *out))

    def forward(self, x: Tensor) -> Tensor:
        taps = F.unfold(x, self.kernel)
        y = torch.einsum("nkp,pok->nop", taps, self.weight)
        return y.view(-1, self.bias.shape[0], *self.out) + self.bias


class CaloGANLayer(nn.Module):
    """CaloGAN: the generator of one calorimeter layer of rows × columns cells."""

    def __init__(self, width: int = 64, latent: int = 64, cells: tuple[int, int] = (12, 6)) -> None:
        super().__init__()
        self.rows, self.columns = cells
        rows, columns = self.rows + 2, self.columns + 2
        self.dense = nn.Linear(latent, rows * columns * 36)
        self.conv = nn.Conv2d(36, width, 2, padding="same")
        self.norm = nn.BatchNorm2d(width)
        self.local1 = LocallyConnected2d(width, 6, (2, 2), (rows - 1, columns - 1))
        self.norm1 = nn.BatchNorm2d(6)
        self.local2 = LocallyConnected2d(6, 1, (2, 2), (rows - 2, columns - 2))

    def forward(self, z: Tensor) -> Tensor:
        x = self.dense(z).view(-1, 36, self.rows + 2, self.columns + 2)
        x = self.norm(F.leaky_relu(self.conv(x), 0.3))
        x = self.norm1(F.leaky_relu(self.local1(x), 0.3))
        return F.relu(self.local2(x))


class CaloGANDiscriminator(nn.Module):
    """CaloGAN: the features of one calorimeter layer."""

    def __init__(self, width: int = 64, cells: tuple[int, int] = (12, 6)) -> None:
        super().__init__()
        rows, columns = cells
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 2, padding="same"), nn.LeakyReLU(0.3), nn.ZeroPad2d(1),
            LocallyConnected2d(width, 16, (3, 3), cells), nn.LeakyReLU(0.3), nn.BatchNorm2d(16),
            nn.ZeroPad2d(1), LocallyConnected2d(16, 8, (2, 2), (rows + 1, columns + 1)),
            nn.LeakyReLU(0.3), nn.BatchNorm2d(8), nn.AvgPool2d(2), nn.Flatten(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)
