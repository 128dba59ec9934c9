"""Fused layers in a LightningModule with two optimizers: manual optimization.

pip install 'fastgan[fabric]'
python examples/lightning_module.py --steps 500
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from fastgan.data import load
from fastgan.losses import get_loss
from fastgan.models import create_model
from fastgan.optim import Adam

try:
    import lightning
except ImportError as error:
    raise ModuleNotFoundError(
        "this example needs Lightning: pip install 'fastgan[fabric]'"
    ) from error


class FusedGAN(lightning.LightningModule):
    def __init__(self, latent_dim: int = 64, width: int = 32) -> None:
        super().__init__()
        self.automatic_optimization = False  # Lightning's way with two optimizers
        sizes = {"image_size": 28, "channels": 1, "width": width}
        self.generator = create_model("dcgan_generator", latent_dim=latent_dim, **sizes)
        self.discriminator = create_model("dcgan_discriminator", **sizes)
        self.loss = get_loss("non_saturating")

    def configure_optimizers(self) -> list[Adam]:
        networks = self.generator, self.discriminator
        return [Adam(n.parameters(), 2e-4, (0.5, 0.999), fused=True) for n in networks]

    def training_step(self, batch: list[Tensor], index: int) -> None:
        optimizer_g, optimizer_d = self.optimizers()
        images = batch[0].float() / 127.5 - 1
        noise = torch.randn(len(images), self.generator.latent_dim, device=self.device)
        fakes = self.generator(noise)

        self.toggle_optimizer(optimizer_d)
        real, fake = self.discriminator(images), self.discriminator(fakes.detach())
        loss_d = self.loss.discriminator(real, fake)
        optimizer_d.zero_grad()
        self.manual_backward(loss_d)
        optimizer_d.step()
        self.untoggle_optimizer(optimizer_d)

        self.discriminator.requires_grad_(False)  # its weight gradients are not computed
        loss_g = self.loss.generator(self.discriminator(fakes))
        self.discriminator.requires_grad_(True)
        optimizer_g.zero_grad()
        self.manual_backward(loss_g)
        optimizer_g.step()
        self.log_dict({"loss_d": loss_d.detach(), "loss_g": loss_g.detach()}, prog_bar=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--out", default="runs/lightning")
    chosen = parser.parse_args()
    lightning.seed_everything(0)
    images = TensorDataset(load("mnist5k").images)
    data = DataLoader(images, chosen.batch_size, shuffle=True, drop_last=True)
    trainer = lightning.Trainer(
        max_steps=2 * chosen.steps,  # Lightning counts both optimizers' steps
        logger=False,
        default_root_dir=chosen.out,
        enable_progress_bar=False,
    )
    model = FusedGAN()
    trainer.fit(model, data)
    told = {name: round(float(value), 3) for name, value in trainer.callback_metrics.items()}
    print(f"{trainer.global_step // 2} steps: {told}")


if __name__ == "__main__":
    main()
