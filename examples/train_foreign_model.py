"""Trains a conditional GAN of plain torch.nn modules, which know nothing of fastgan.

    python examples/train_foreign_model.py --steps 2000

Any two modules will do: noise (and labels) to images, images (and labels) to logits.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

from fastgan import TrainConfig, Trainer
from fastgan.data import load
from fastgan.engine import Callback

CLASSES = 10


class Generator(nn.Module):
    def __init__(self, latent_dim: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CLASSES, latent_dim)
        self.layers = nn.Sequential(
            nn.Linear(2 * latent_dim, 256), nn.ReLU(), nn.Linear(256, 784), nn.Tanh()
        )

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        x = torch.cat([noise, self.embedding(labels)], 1)
        return self.layers(x).view(-1, 1, 28, 28)


class Discriminator(nn.Module):
    """Judges images by a projection on their label (Miyato and Koyama 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.LeakyReLU(0.2))
        self.logit = nn.Linear(256, 1)
        self.embedding = nn.Embedding(CLASSES, 256)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        x = self.features(images)
        return self.logit(x).flatten() + (x * self.embedding(labels)).sum(1)


class Announce(Callback):
    def on_log(self, trainer: Trainer, values: dict[str, float]) -> None:
        values["weight_norm"] = float(trainer.discriminator.logit.weight.detach().norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--out", default="runs/foreign")
    chosen = parser.parse_args()
    config = TrainConfig(steps=chosen.steps, conditional=True, regularizer="r1", reg_every=4)
    trainer = Trainer(
        Generator(), Discriminator(), load("mnist5k"), config, latent_dim=64, callbacks=[Announce()]
    )
    print(trainer.fit(chosen.out).samples)


if __name__ == "__main__":
    main()
