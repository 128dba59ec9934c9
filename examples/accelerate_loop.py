"""Hugging Face Accelerate around fused networks: its launcher, precision, checkpoints and loop.

    pip install 'fastgan[accelerate]'
    python examples/accelerate_loop.py --steps 500        # or: accelerate launch ...

`fastgan.fuse` replaces convolution, norm and activation of networks of plain torch.nn; to
Accelerate they are modules like any other.
"""

from __future__ import annotations

import argparse
from itertools import count, islice

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fastgan
from fastgan.data import load
from fastgan.losses import get_loss
from fastgan.optim import Adam

try:
    from accelerate import Accelerator
except ImportError as error:
    raise ModuleNotFoundError(
        "this example needs Accelerate: pip install 'fastgan[accelerate]'"
    ) from error

LATENT = 64


def make_generator() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (LATENT, 1, 1)),
        nn.ConvTranspose2d(LATENT, 64, 7, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
        nn.ConvTranspose2d(64, 32, 4, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.ConvTranspose2d(32, 1, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip


def make_discriminator() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Conv2d(32, 64, 4, 2, 1, bias=False), nn.BatchNorm2d(64), nn.LeakyReLU(0.2),
        nn.Conv2d(64, 1, 7), nn.Flatten(0),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--out", default="runs/accelerate")
    chosen = parser.parse_args()
    torch.manual_seed(0)
    accelerator = Accelerator()
    loss = get_loss("non_saturating")
    networks = fastgan.fuse(make_generator()), fastgan.fuse(make_discriminator())
    optimizers = [Adam(n.parameters(), 2e-4, (0.5, 0.999), fused=True) for n in networks]
    images = load("mnist5k").images
    data = DataLoader(TensorDataset(images), chosen.batch_size, shuffle=True, drop_last=True)
    generator, discriminator, optimizer_g, optimizer_d, data = accelerator.prepare(
        *networks, *optimizers, data
    )

    def step(images: Tensor) -> dict[str, Tensor]:
        fakes = generator(torch.randn(len(images), LATENT, device=accelerator.device))
        optimizer_d.zero_grad()
        loss_d = loss.discriminator(discriminator(images), discriminator(fakes.detach()))
        accelerator.backward(loss_d)
        optimizer_d.step()
        optimizer_g.zero_grad()
        discriminator.requires_grad_(False)
        loss_g = loss.generator(discriminator(fakes))
        discriminator.requires_grad_(True)
        accelerator.backward(loss_g)
        optimizer_g.step()
        return {"loss_d": loss_d.detach(), "loss_g": loss_g.detach()}

    batches = (pixels for _ in count() for (pixels,) in data)
    for i, pixels in enumerate(islice(batches, chosen.steps), 1):
        losses = step(pixels.float() / 127.5 - 1)
        if i % 100 == 0 or i == chosen.steps:
            told = "  ".join(f"{name} {float(value):.3f}" for name, value in losses.items())
            accelerator.print(f"step {i}  {told}")
    accelerator.save_state(chosen.out)
    accelerator.print(chosen.out)


if __name__ == "__main__":
    main()
