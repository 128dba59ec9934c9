"""DCGAN-64 as plain torch.nn layers, as narrow as asked for, and what the tests measure of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgan.kernels.conv_block.geometry import ConvGeometry, conv_geometry


def generator(width: int, latent: int = 8, smooth: bool = False, most: int = 512) -> nn.Sequential:
    """smooth: tanh in the place of the activations with a kink. most: channels of a layer."""
    channels = [latent, *(min(most, k * width) for k in (8, 4, 2, 1))]
    layers: list[nn.Module] = []
    for i in range(4):
        geometry = (4, 2, 1) if i else (4, 1, 0)
        conv = nn.ConvTranspose2d(channels[i], channels[i + 1], *geometry, bias=False)
        layers += [
            conv,
            nn.BatchNorm2d(channels[i + 1]),
            nn.Tanh() if smooth else nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, nn.ConvTranspose2d(channels[4], 3, 4, 2, 1), nn.Tanh())


def discriminator(width: int, smooth: bool = False, most: int = 512) -> nn.Sequential:
    def act() -> nn.Module:
        return nn.Tanh() if smooth else nn.LeakyReLU(0.2, inplace=True)

    channels = [min(most, k * width) for k in (1, 2, 4, 8)]
    layers: list[nn.Module] = [nn.Conv2d(3, channels[0], 4, 2, 1), act()]
    for i in range(3):
        conv = nn.Conv2d(channels[i], channels[i + 1], 4, 2, 1, bias=False)
        layers += [conv, nn.BatchNorm2d(channels[i + 1]), act()]
    return nn.Sequential(*layers, nn.Conv2d(channels[3], 1, 4), nn.Flatten(0))


def shake(model: nn.Sequential) -> nn.Sequential:
    """The model with every parameter away from its special initial value."""
    for name, p in model.named_parameters():
        weight = p.dim() > 1
        nn.init.normal_(p, 1.0 if not weight and name.endswith("weight") else 0.0, 0.2)
    return model


def trace(model: nn.Module, x: Tensor, cotangent: Tensor) -> dict[str, Tensor]:
    """Output in training and evaluation, every gradient, and the running statistics."""
    leaf = x.clone().requires_grad_()
    y = model.train()(leaf)
    y.backward(cotangent.to(y.dtype))
    found = {"y": y, "dx": leaf.grad, **{f"d{n}": p.grad for n, p in model.named_parameters()}}
    found |= {name: buffer.clone() for name, buffer in model.named_buffers()}
    found["eval"] = model.eval()(x)
    return found


def geometry(n: int, c_in: int, side: int, c_out: int, transposed: bool = False) -> ConvGeometry:
    """A layer's: kernel 4, stride 2, padding 1."""
    x = torch.empty(n, c_in, side, side, device="meta")
    weight = torch.empty(*((c_in, c_out) if transposed else (c_out, c_in)), 4, 4, device="meta")
    return conv_geometry(x, weight, [2, 2], [1, 1], [0, 0], transposed)
