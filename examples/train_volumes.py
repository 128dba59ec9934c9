"""Trains a GAN of 16x16x16 volumes, floats in [0, 1], from a plain DataLoader.

python examples/train_volumes.py --steps 2000
"""

import torch
import tyro
from torch import nn
from torch.utils.data import DataLoader

from fastgan import TrainConfig, Trainer


def main(steps: int = 2000, width: int = 32, out: str = "runs/volumes") -> None:
    # Energy in the cells of a calorimeter: blobs whose place and width vary.
    cells = torch.stack(torch.meshgrid(*[torch.arange(16.0)] * 3, indexing="ij"))
    place, spread = torch.rand(1024, 3, 1, 1, 1) * 8 + 4, torch.rand(1024, 1, 1, 1, 1) * 8 + 4
    volumes = torch.exp(-(cells - place).square().sum(1, keepdim=True) / spread)
    data = DataLoader(volumes, batch_size=16, shuffle=True)  # type: ignore[arg-type]
    up, down, norm = nn.ConvTranspose3d, nn.Conv3d, nn.BatchNorm3d
    generator = nn.Sequential(
        nn.Unflatten(1, (64, 1, 1, 1)),
        nn.Sequential(up(64, 2 * width, 4), norm(2 * width), nn.ReLU()),
        nn.Sequential(up(2 * width, width, 4, 2, 1), norm(width), nn.ReLU()),
        nn.Sequential(up(width, 1, 4, 2, 1), nn.Tanh()),
    )
    discriminator = nn.Sequential(
        nn.Sequential(down(1, width, 4, 2, 1), nn.LeakyReLU(0.2)),
        nn.Sequential(down(width, 2 * width, 4, 2, 1), norm(2 * width), nn.LeakyReLU(0.2)),
        nn.Sequential(down(2 * width, 1, 4), nn.Flatten()),
    )
    config = TrainConfig(steps=steps, batch_size=16)
    print(Trainer(generator, discriminator, data, config, latent_dim=64).fit(out).samples)


if __name__ == "__main__":
    tyro.cli(main)
