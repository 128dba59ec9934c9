"""Trains a DCGAN of images of 13 channels and 48x80 pixels, as satellites take them.

python examples/train_13_channels.py --steps 2000
"""

import torch
import tyro
from torch.utils.data import DataLoader, Dataset

from fastgan import TrainConfig, Trainer
from fastgan.models import create_model


class Bands(Dataset):
    """(image, label) pairs: floats in [0, 1], stripes whose phase moves from band to band."""

    def __len__(self) -> int:
        return 4096

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        y, x = torch.meshgrid(torch.arange(48.0), torch.arange(80.0), indexing="ij")
        phase = torch.rand(1) * 6 + torch.arange(13.0)[:, None, None] / 4
        return torch.sin((x + y * index % 3) / 5 + phase) / 2 + 0.5, index % 3


def main(steps: int = 2000, width: int = 32, out: str = "runs/13-channels") -> None:
    networks = [
        create_model(f"dcgan_{part}", image_size=(48, 80), channels=13, width=width)
        for part in ("generator", "discriminator")
    ]
    config = TrainConfig(steps=steps, batch_size=16)
    data = DataLoader(Bands(), batch_size=16, shuffle=True)
    print(Trainer(*networks, data, config).fit(out).samples)


if __name__ == "__main__":
    tyro.cli(main)
