"""R3GAN's objective on DCGAN's layers, for an hour of one CPU core."""

from typing import Any

from fastgan.engine.config import TrainConfig
from fastgan.recipes.recipe import ModelSpec, Recipe, register_recipe


def _modern(image_size: int, channels: int, summary: str, **train: Any) -> Recipe:
    shape = {"image_size": image_size, "channels": channels}
    return register_recipe(
        Recipe(
            name=f"modern-{image_size}",
            summary=f"relativistic pairing with R1 and R2 of first order, no norm, {summary}",
            generator=ModelSpec("modern_generator", shape),
            discriminator=ModelSpec("modern_discriminator", shape),
            image_size=image_size,
            channels=channels,
            wants_images=channels == 3,
            train=TrainConfig(
                loss="relativistic_pairing",
                regularizer="r1_r2_finite",
                reg_weight=1.0,
                reg_every=8,
                reg_fraction=0.5,
                # A discriminator that is as slow as the generator loses, and images go round.
                lr_g=2e-4,
                lr_d=8e-4,
                beta1=0.0,
                beta2=0.99,
                ema_decay=0.998,
                joint_batch=True,
                **train,
            ),
        )
    )


MODERN_28 = _modern(28, 1, "digits, 28x28 grey", steps=10_000, checkpoint_every=1000)
MODERN_64 = _modern(
    64,
    3,
    "64x64 RGB; give it images with --data",
    steps=30_000,
    batch_size=32,
    flip=True,
    sample_every=1000,
    checkpoint_every=1000,
)
