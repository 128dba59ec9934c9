"""A training loop of your own: captured as CUDA graphs on a GPU, and resumed to the bit.

    python examples/own_loop.py --steps 500        # run it again with more steps: it goes on

The step is fastgan's (`gan_step`); everything around it stands here.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from fastgan.data import load, make_loader
from fastgan.engine import GAN, Batch, CheckpointManager, Ema, Update, capture, gan_step
from fastgan.losses import get_loss
from fastgan.models import create_model

MODELS = {
    "generator": {"name": "dcgan_generator", "arguments": {"latent_dim": 64, "width": 32}},
    "discriminator": {"name": "dcgan_discriminator", "arguments": {"width": 32}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--out", default="runs/own")
    chosen = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    for spec in MODELS.values():
        spec["arguments"] |= {"image_size": 28, "channels": 1}
    networks = [create_model(spec["name"], **spec["arguments"]) for spec in MODELS.values()]
    generator, discriminator = (
        network.to(device, memory_format=torch.channels_last) for network in networks
    )
    updates = (Update(network, 2e-4, (0.5, 0.999)) for network in (generator, discriminator))
    gan = GAN(generator, discriminator, *updates, get_loss("non_saturating"))
    ema = Ema(generator, 0.999)
    noise = torch.Generator(device).manual_seed(1)
    data = make_loader(load("mnist5k"), chosen.batch_size, seed=0, device=device)

    def step(rows: Tensor, mirrored: Tensor | None) -> dict[str, Tensor]:
        images, _ = data.gather(rows, mirrored)
        z = torch.randn(chosen.batch_size, 64, generator=noise, device=device)
        losses = gan_step(gan, lambda update: Batch(images, None, z))
        ema.update()
        return losses

    captured = capture(step, device, generators=[noise], settings=gan.host_values)
    checkpoints = CheckpointManager(
        chosen.out, keep_last=2, info=MODELS, gan=gan, generator_ema=ema, noise=noise
    )
    for i in range(checkpoints.restore(), chosen.steps):
        ema.before(i + 1)
        losses = captured(*data.rows(i))
        if (i + 1) % 100 == 0 or i + 1 == chosen.steps:
            told = "  ".join(f"{name} {float(value):.3f}" for name, value in losses.items())
            print(f"step {i + 1}  {told}")
            print(checkpoints.save(i + 1))


if __name__ == "__main__":
    main()
