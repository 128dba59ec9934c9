"""R3GAN's objective on DCGAN's layers."""

from fastgan.engine.config import TrainConfig
from fastgan.recipes.recipe import ModelSpec, Recipe, register_recipe

_SHAPE = {"image_size": 64, "channels": 3}

MODERN_64 = register_recipe(
    Recipe(
        name="modern-64",
        summary="relativistic pairing with R1 and R2 of first order, for few CPU cores, 64x64 RGB; "
        "give it images with --data",
        generator=ModelSpec("modern_generator", _SHAPE),
        discriminator=ModelSpec("modern_discriminator", _SHAPE),
        image_size=64,
        channels=3,
        wants_images=True,
        train=TrainConfig(
            steps=30_000,
            batch_size=32,
            loss="relativistic_pairing",
            regularizer="r1_r2_finite",
            # A twentieth of r3gan's, for few updates.
            reg_weight=0.05,
            reg_every=8,
            reg_fraction=0.5,
            lr_g=4e-4,
            lr_d=4e-4,
            beta1=0.0,
            beta2=0.99,
            ema_decay=0.998,
            joint_batch=True,
            flip=True,
            sample_every=1000,
            checkpoint_every=1000,
        ),
    )
)
