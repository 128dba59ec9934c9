"""Image models, from their published layer tables: `width` is the channels of the widest map."""

from __future__ import annotations

import functools
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def dcgan_generator(width: int = 64, latent: int = 100, channels: int = 3) -> nn.Module:
    """PyTorch's DCGAN tutorial: 64×64, ReLU, no biases."""
    widths = [width * 8, width * 4, width * 2, width]
    layers: list[nn.Module] = []
    for i, (c_in, c_out) in enumerate(pairwise([latent, *widths])):
        step = (4, 1, 0) if i == 0 else (4, 2, 1)
        layers += [nn.ConvTranspose2d(c_in, c_out, *step, bias=False), nn.BatchNorm2d(c_out)]
        layers.append(nn.ReLU(True))
    return Wrapped(*layers, nn.ConvTranspose2d(width, channels, 4, 2, 1, bias=False), nn.Tanh())


def dcgan_discriminator(width: int = 64, channels: int = 3) -> nn.Module:
    """PyTorch's DCGAN tutorial."""
    layers = [nn.Conv2d(channels, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)]
    for c_in, c_out in pairwise([width, width * 2, width * 4, width * 8]):
        layers += [nn.Conv2d(c_in, c_out, 4, 2, 1, bias=False), nn.BatchNorm2d(c_out)]
        layers.append(nn.LeakyReLU(0.2, inplace=True))
    return Wrapped(*layers, nn.Conv2d(width * 8, 1, 4, 1, 0, bias=False), nn.Sigmoid())


class Wrapped(nn.Module):
    """Layers in one nn.Sequential, as tutorials have it."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.main = nn.Sequential(*layers)

    def forward(self, input: Tensor) -> Tensor:
        return self.main(input)


class TorchganGenerator(nn.Module):
    """torchgan's DCGAN, 32×32: a Sequential for each block, one LeakyReLU for all of them."""

    def __init__(self, width: int = 64, latent: int = 100) -> None:
        super().__init__()
        act = nn.LeakyReLU(0.2)
        self.latent = latent
        blocks = [self.block(nn.ConvTranspose2d(latent, width * 4, 4, 1, 0, bias=False), act)]
        for c_in, c_out in pairwise([width * 4, width * 2, width]):
            blocks.append(self.block(nn.ConvTranspose2d(c_in, c_out, 4, 2, 1, bias=False), act))
        last = nn.Sequential(nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=True), nn.Tanh())
        self.model = nn.Sequential(*blocks, last)

    @staticmethod
    def block(conv: nn.ConvTranspose2d, act: nn.Module) -> nn.Sequential:
        return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), act)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.view(-1, self.latent, 1, 1))


def torchgan_discriminator(width: int = 64) -> nn.Module:
    """torchgan's DCGAN, 32×32; its last layer is activated, too."""
    act = nn.LeakyReLU(0.2)
    blocks = [nn.Sequential(nn.Conv2d(3, width, 4, 2, 1), act)]
    for c_in, c_out in pairwise([width, width * 2, width * 4]):
        conv = nn.Conv2d(c_in, c_out, 4, 2, 1, bias=False)
        blocks.append(nn.Sequential(conv, nn.BatchNorm2d(c_out), act))
    blocks.append(nn.Sequential(nn.Conv2d(width * 4, 1, 4, 1, 0), act))
    return Wrapped(*blocks)


class TensorflowGenerator(nn.Module):
    """TensorFlow's DCGAN tutorial, 28×28: a dense layer, 5×5 kernels, LeakyReLU 0.3."""

    def __init__(self, width: int = 64, latent: int = 100) -> None:
        super().__init__()
        self.width = width
        self.dense = nn.Linear(latent, 49 * 4 * width, bias=False)
        self.norm = nn.BatchNorm1d(49 * 4 * width, eps=1e-3, momentum=0.01)
        self.up1 = nn.ConvTranspose2d(4 * width, 2 * width, 5, 1, 2, bias=False)
        self.norm1 = nn.BatchNorm2d(2 * width, eps=1e-3, momentum=0.01)
        self.up2 = nn.ConvTranspose2d(2 * width, width, 5, 2, 2, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width, eps=1e-3, momentum=0.01)
        self.up3 = nn.ConvTranspose2d(width, 1, 5, 2, 2, 1, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        x = F.leaky_relu(self.norm(self.dense(z)), 0.3).view(-1, 4 * self.width, 7, 7)
        x = F.leaky_relu(self.norm1(self.up1(x)), 0.3)
        x = F.leaky_relu(self.norm2(self.up2(x)), 0.3)
        return torch.tanh(self.up3(x))


def tensorflow_discriminator(width: int = 64) -> nn.Module:
    """TensorFlow's DCGAN tutorial, 28×28."""
    layers: list[nn.Module] = []
    for c_in, c_out in ((1, width), (width, 2 * width)):
        layers += [nn.Conv2d(c_in, c_out, 5, 2, 2), nn.LeakyReLU(0.3), nn.Dropout(0.3)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(49 * 2 * width, 1))


class UnetBlock(nn.Module):
    """pix2pix: one level of the U-Net, with all that lies below it in the middle."""

    def __init__(
        self, outer: int, inner: int, middle: nn.Module | None, place: str = "", dropout: float = 0
    ) -> None:
        super().__init__()
        self.outermost = place == "outermost"
        c_in = 3 if self.outermost else outer
        down: list[nn.Module] = [nn.Conv2d(c_in, inner, 4, 2, 1, bias=False)]
        up: list[nn.Module] = [nn.ReLU(True)]
        below = inner if middle is None else inner * 2
        if not self.outermost:
            down.insert(0, nn.LeakyReLU(0.2, True))
            if middle is not None:
                down.append(nn.BatchNorm2d(inner))
            up += [nn.ConvTranspose2d(below, outer, 4, 2, 1, bias=False), nn.BatchNorm2d(outer)]
        else:
            up += [nn.ConvTranspose2d(below, outer, 4, 2, 1), nn.Tanh()]
        if dropout:
            up.append(nn.Dropout(dropout))
        self.model = nn.Sequential(*down, *([] if middle is None else [middle]), *up)

    def forward(self, x: Tensor) -> Tensor:
        if self.outermost:
            return self.model(x)
        return torch.cat([x, self.model(x)], 1)


def pix2pix_unet(width: int = 64, downs: int = 8) -> nn.Module:
    """U-Net-256: `downs` halvings; dropout in all inner levels but the innermost."""
    block: nn.Module = UnetBlock(width * 8, width * 8, None, "innermost")
    for _ in range(downs - 5):
        block = UnetBlock(width * 8, width * 8, block, dropout=0.5)
    for outer, inner in ((width * 4, width * 8), (width * 2, width * 4), (width, width * 2)):
        block = UnetBlock(outer, inner, block)
    return UnetBlock(3, width, block, "outermost")


def patchgan(width: int = 64, channels: int = 6, norm: str = "instance") -> nn.Module:
    """The 70×70 PatchGAN of pix2pix and CycleGAN; with batch norm, that of latent diffusion."""
    kind = nn.BatchNorm2d if norm == "batch" else nn.InstanceNorm2d
    layers = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2, True)]
    for i, (c_in, c_out) in enumerate(pairwise([width, width * 2, width * 4, width * 8])):
        stride = 2 if i < 2 else 1
        layers += [nn.Conv2d(c_in, c_out, 4, stride, 1, bias=norm != "batch"), kind(c_out)]
        layers.append(nn.LeakyReLU(0.2, True))
    return Wrapped(*layers, nn.Conv2d(width * 8, 1, 4, 1, 1))


class ResnetBlock(nn.Module):
    """CycleGAN: two 3×3 convolutions with reflected borders around which the input goes on."""

    def __init__(self, width: int) -> None:
        super().__init__()
        conv = functools.partial(nn.Conv2d, width, width, 3)
        norm = functools.partial(nn.InstanceNorm2d, width)
        pad = functools.partial(nn.ReflectionPad2d, 1)
        self.conv_block = nn.Sequential(pad(), conv(), norm(), nn.ReLU(True), pad(), conv(), norm())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


def cyclegan_generator(width: int = 64, blocks: int = 9) -> nn.Module:
    layers = [
        nn.ReflectionPad2d(3),
        nn.Conv2d(3, width, 7),
        nn.InstanceNorm2d(width),
        nn.ReLU(True),
    ]
    for c in (width, width * 2):
        layers += [nn.Conv2d(c, c * 2, 3, 2, 1), nn.InstanceNorm2d(c * 2), nn.ReLU(True)]
    layers += [ResnetBlock(width * 4) for _ in range(blocks)]
    for c in (width * 4, width * 2):
        layers.append(nn.ConvTranspose2d(c, c // 2, 3, 2, 1, 1))
        layers += [nn.InstanceNorm2d(c // 2), nn.ReLU(True)]
    return Wrapped(*layers, nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh())


class SRGANDiscriminator(nn.Module):
    """SRGAN: eight 3×3 convolutions, every second one halving, then two dense layers."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        layers = [nn.Conv2d(3, width, 3, 1, 1), nn.LeakyReLU(0.2)]
        c_in = width
        for c_out, stride in zip((1, 2, 2, 4, 4, 8, 8), (2, 1, 2, 1, 2, 1, 2), strict=True):
            layers += [nn.Conv2d(c_in, c_out * width, 3, stride, 1), nn.BatchNorm2d(c_out * width)]
            layers.append(nn.LeakyReLU(0.2))
            c_in = c_out * width
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2))
        head = [nn.Linear(c_in * 4, width * 16), nn.LeakyReLU(0.2), nn.Linear(width * 16, 1)]
        self.classifier = nn.Sequential(*head)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


class ESRGANDiscriminator(nn.Module):
    """ESRGAN's VGG-style discriminator, 128×128: pairs of 3×3 and halving 4×4 convolutions."""

    def __init__(self, width: int = 64, size: int = 128) -> None:
        super().__init__()
        self.conv0_0 = nn.Conv2d(3, width, 3, 1, 1)
        self.conv0_1 = nn.Conv2d(width, width, 4, 2, 1, bias=False)
        self.bn0_1 = nn.BatchNorm2d(width)
        for i, (c_in, c_out) in enumerate(pairwise([1, 2, 4, 8, 8]), start=1):
            a, b = c_in * width, c_out * width
            setattr(self, f"conv{i}_0", nn.Conv2d(a, b, 3, 1, 1, bias=False))
            setattr(self, f"bn{i}_0", nn.BatchNorm2d(b))
            setattr(self, f"conv{i}_1", nn.Conv2d(b, b, 4, 2, 1, bias=False))
            setattr(self, f"bn{i}_1", nn.BatchNorm2d(b))
        self.linear1 = nn.Linear(8 * width * (size // 32) ** 2, 100)
        self.linear2 = nn.Linear(100, 1)
        self.lrelu = nn.LeakyReLU(0.2, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        feat = self.lrelu(self.conv0_0(x))
        feat = self.lrelu(self.bn0_1(self.conv0_1(feat)))
        for i in range(1, 5):
            conv, norm = getattr(self, f"conv{i}_0"), getattr(self, f"bn{i}_0")
            feat = self.lrelu(norm(conv(feat)))
            conv, norm = getattr(self, f"conv{i}_1"), getattr(self, f"bn{i}_1")
            feat = self.lrelu(norm(conv(feat)))
        feat = feat.flatten(1)
        return self.linear2(self.lrelu(self.linear1(feat)))


class R3GANBlock(nn.Module):
    """R3GAN: an inverted, grouped bottleneck without a norm, around which the input goes on."""

    def __init__(self, width: int, groups: int, expansion: int = 2) -> None:
        super().__init__()
        inner = width * expansion
        self.linear1 = nn.Conv2d(width, inner, 1)
        self.linear2 = nn.Conv2d(inner, inner, 3, 1, 1, groups=groups)
        self.linear3 = nn.Conv2d(inner, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.linear1(x), 0.2)
        y = F.leaky_relu(self.linear2(y), 0.2)
        return x + self.linear3(y)


def r3gan_stage(width: int = 64, blocks: int = 2) -> nn.Module:
    """A stage of R3GAN: blocks, then interpolation and a 1×1 convolution to the next width."""
    halving = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(width, width * 2, 1, bias=False))
    return nn.Sequential(*(R3GANBlock(width, max(1, width // 4)) for _ in range(blocks)), halving)
