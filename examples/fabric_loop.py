"""Lightning Fabric around fastgan's step: Fabric launches, places, loads and logs.

    pip install 'fastgan[fabric]'
    python examples/fabric_loop.py --steps 500 --devices 1

Networks go to their device by `fabric.to_device`, not by `fabric.setup`: with several processes
`Update` averages the gradients itself, penalties' second derivatives included.
"""

from __future__ import annotations

import argparse
from itertools import count, islice

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from fastgan.data import load
from fastgan.engine import GAN, Batch, CheckpointManager, DistributedGroup, Ema, Update, gan_step
from fastgan.losses import get_loss
from fastgan.models import create_model
from fastgan.regularizers import get_regularizer

try:
    from lightning.fabric import Fabric
except ImportError as error:
    raise ModuleNotFoundError(
        "this example needs Lightning Fabric: pip install 'fastgan[fabric]'"
    ) from error

LATENT = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--out", default="runs/fabric")
    chosen = parser.parse_args()
    fabric = Fabric(devices=chosen.devices)
    fabric.launch()
    fabric.seed_everything(0, verbose=False)  # the networks are the same in every process

    sizes = {"image_size": 28, "channels": 1, "width": 32}
    generator = create_model("dcgan_generator", latent_dim=LATENT, **sizes)
    discriminator = create_model("dcgan_discriminator", **sizes)
    networks = [
        fabric.to_device(m).to(memory_format=torch.channels_last)
        for m in (generator, discriminator)
    ]
    group = DistributedGroup.current()
    updates = (Update(network, 2e-4, (0.5, 0.999), group=group) for network in networks)
    penalties = [get_regularizer("r1", every=16)]
    gan = GAN(*networks, *updates, get_loss("non_saturating"), penalties, group=group)
    ema = Ema(networks[0], 0.999)
    checkpoints = CheckpointManager(chosen.out, keep_last=2, gan=gan, generator_ema=ema)

    data = DataLoader(
        TensorDataset(load("mnist5k").images), chosen.batch_size, shuffle=True, drop_last=True
    )
    data = fabric.setup_dataloaders(data)
    torch.manual_seed(fabric.global_rank)

    def train(step: int, images: Tensor) -> dict[str, Tensor]:
        noise = torch.randn(len(images), LATENT, device=fabric.device)
        due = [[step % penalty.every == 1 for penalty in penalties]]
        losses = gan_step(gan, lambda update: Batch(images, None, noise), due)
        ema.before(step)
        ema.update()
        return losses

    batches = (pixels for _ in count() for (pixels,) in data)
    for step, pixels in enumerate(islice(batches, chosen.steps), 1):
        losses = train(step, pixels.float() / 127.5 - 1)
        if step % 100 == 0 or step == chosen.steps:
            told = "  ".join(f"{name} {float(value):.3f}" for name, value in losses.items())
            fabric.print(f"step {step}  {told}")
            fabric.print(checkpoints.save(step))


if __name__ == "__main__":
    main()
