"""Trains a GAN of 16x16x16 volumes, floats in [0, 1], from a plain DataLoader.

python examples/train_volumes.py --steps 2000
"""

import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from fastgan import TrainConfig, Trainer


class Showers(Dataset):
    """Energy in the cells of a calorimeter: a blob whose depth and width vary."""

    def __len__(self) -> int:
        return 4096

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        place = torch.rand(3) * 8 + 4
        cells = torch.stack(torch.meshgrid(*[torch.arange(16.0)] * 3, indexing="ij"), -1)
        distance = (cells - place).square().sum(-1)
        return {"volume": torch.exp(-distance / (4 + 8 * torch.rand(1)))[None]}


def block(kind: type[nn.Module], c_in: int, c_out: int, act: nn.Module) -> nn.Sequential:
    return nn.Sequential(kind(c_in, c_out, 4, 2, 1), nn.BatchNorm3d(c_out), act)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--out", default="runs/volumes")
    chosen = parser.parse_args()
    width = chosen.width
    up, down = nn.ConvTranspose3d, nn.Conv3d
    generator = nn.Sequential(
        nn.Unflatten(1, (64, 1, 1, 1)),
        nn.Sequential(up(64, 2 * width, 4), nn.BatchNorm3d(2 * width), nn.ReLU()),
        block(up, 2 * width, width, nn.ReLU()),
        nn.Sequential(up(width, 1, 4, 2, 1), nn.Tanh()),
    )
    discriminator = nn.Sequential(
        nn.Sequential(down(1, width, 4, 2, 1), nn.LeakyReLU(0.2)),
        block(down, width, 2 * width, nn.LeakyReLU(0.2)),
        nn.Sequential(down(2 * width, 1, 4), nn.Flatten()),
    )
    data = DataLoader(Showers(), batch_size=16, shuffle=True)
    config = TrainConfig(steps=chosen.steps, batch_size=16)
    print(Trainer(generator, discriminator, data, config, latent_dim=64).fit(chosen.out).samples)


if __name__ == "__main__":
    main()
