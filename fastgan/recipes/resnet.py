"""Residual GANs: spectral norm, self-attention, classes by projection, and R3GAN."""

from fastgan.engine.config import TrainConfig
from fastgan.recipes.recipe import ModelSpec, Recipe, register_recipe

_SHAPE = {"image_size": 28, "channels": 1, "width": 16, "max_width": 64}

SNGAN = register_recipe(
    Recipe(
        name="sngan",
        summary="residual GAN with spectral norm and hinge loss, on digits",
        generator=ModelSpec("resnet_generator", _SHAPE),
        discriminator=ModelSpec("resnet_discriminator", _SHAPE),
        image_size=28,
        channels=1,
        train=TrainConfig(steps=4000, loss="hinge", beta1=0.0, beta2=0.9, ema_decay=0.995),
    )
)

SAGAN = register_recipe(
    Recipe(
        name="sagan",
        summary="self-attention at 14x14 and spectral norm in both networks, on digits",
        generator=ModelSpec("resnet_generator", {**_SHAPE, "attention": 14, "spectral": True}),
        discriminator=ModelSpec("resnet_discriminator", {**_SHAPE, "attention": 14}),
        image_size=28,
        channels=1,
        train=TrainConfig(
            steps=4000,
            loss="hinge",
            lr_g=1e-4,
            lr_d=4e-4,
            beta1=0.0,
            beta2=0.9,
            ema_decay=0.995,
        ),
    )
)

PROJECTION = register_recipe(
    Recipe(
        name="projection",
        summary="sngan with classes: conditional batch norm, projection discriminator, on digits",
        generator=ModelSpec("resnet_generator", {**_SHAPE, "num_classes": 10}),
        discriminator=ModelSpec("resnet_discriminator", {**_SHAPE, "num_classes": 10}),
        image_size=28,
        channels=1,
        train=TrainConfig(
            steps=4000,
            loss="hinge",
            conditional=True,
            lr_g=5e-4,
            lr_d=5e-4,
            beta1=0.0,
            beta2=0.9,
            ema_decay=0.995,
        ),
    )
)

R3GAN = register_recipe(
    Recipe(
        name="r3gan",
        summary="relativistic pairing with R1 and R2, residual networks without norm, on digits",
        generator=ModelSpec("r3gan_generator", {**_SHAPE, "blocks": 1}),
        discriminator=ModelSpec("r3gan_discriminator", {**_SHAPE, "blocks": 1}),
        image_size=28,
        channels=1,
        train=TrainConfig(
            steps=4000,
            loss="relativistic_pairing",
            regularizer="r1_r2",
            reg_weight=1.0,
            beta1=0.0,
            beta2=0.99,
            ema_decay=0.995,
        ),
    )
)
