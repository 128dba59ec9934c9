"""The DCGAN family at four sizes."""

from typing import Literal

from fastgan.engine.config import TrainConfig
from fastgan.recipes.recipe import ModelSpec, Recipe, register_recipe


def _dcgan_28(name: str, channels: Literal[1, 3], summary: str, **discriminator: float) -> Recipe:
    return register_recipe(
        Recipe(
            name=name,
            summary=f"5x5 DCGAN of TensorFlow's tutorial, 28x28 {summary}",
            generator=ModelSpec("tf_dcgan_generator", {"channels": channels}),
            discriminator=ModelSpec(
                "tf_dcgan_discriminator", {"channels": channels, **discriminator}
            ),
            image_size=28,
            channels=channels,
            train=TrainConfig(
                steps=12_000, batch_size=256, lr_g=1e-4, lr_d=1e-4, beta1=0.9, checkpoint_every=1000
            ),
        )
    )


def _dcgan(image_size: int, steps: int) -> Recipe:
    arguments = {"image_size": image_size, "channels": 3}
    return register_recipe(
        Recipe(
            name=f"dcgan-{image_size}",
            summary=f"4x4 DCGAN, {image_size}x{image_size} RGB; give it images with --data",
            generator=ModelSpec("dcgan_generator", arguments),
            discriminator=ModelSpec("dcgan_discriminator", arguments),
            image_size=image_size,
            channels=3,
            wants_images=True,
            train=TrainConfig(
                steps=steps, batch_size=128, sample_every=1000, checkpoint_every=1000
            ),
        )
    )


# The tutorial's discriminator has dropout and no dense layer, and samples of digits stay between
# classes: after 1,500 updates of batch 64 LeNet was sure of 60 %, of 64 % without dropout, of 68 %
# with a dense layer, and of 77 % with InfoGAN's, which has batch norm.
DCGAN_28 = _dcgan_28("dcgan-28", 1, "grey", dropout=0.0, hidden=1024)
DCGAN_28_RGB = _dcgan_28("dcgan-28-rgb", 3, "RGB, with dropout")
DCGAN_32 = _dcgan(32, steps=30_000)
DCGAN_64 = _dcgan(64, steps=50_000)
DCGAN_128 = _dcgan(128, steps=80_000)
