"""Trains a DCGAN of images of 13 channels and 48x80 pixels, as satellites take them.

python examples/train_13_channels.py --steps 2000
"""

import argparse

import torch
from torch.utils.data import DataLoader, Dataset

from fastgan import TrainConfig, Trainer
from fastgan.models import create_model

SIZE = {"image_size": (48, 80), "channels": 13}


class Bands(Dataset):
    """(image, label) pairs: floats in [0, 1], stripes whose phase moves from band to band."""

    def __len__(self) -> int:
        return 4096

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        y, x = torch.meshgrid(torch.arange(48.0), torch.arange(80.0), indexing="ij")
        phase = torch.rand(1) * 6 + torch.arange(13.0)[:, None, None] / 4
        return torch.sin((x + y * index % 3) / 5 + phase) / 2 + 0.5, index % 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--out", default="runs/13-channels")
    chosen = parser.parse_args()
    generator = create_model("dcgan_generator", width=chosen.width, **SIZE)
    discriminator = create_model("dcgan_discriminator", width=chosen.width, **SIZE)
    data = DataLoader(Bands(), batch_size=16, shuffle=True)
    config = TrainConfig(steps=chosen.steps, batch_size=16)
    print(Trainer(generator, discriminator, data, config).fit(chosen.out).samples)


if __name__ == "__main__":
    main()
