"""The first run: handwritten digits in a few minutes on a laptop CPU."""

from fastgan.engine.config import TrainConfig
from fastgan.recipes.recipe import ModelSpec, Recipe, register_recipe

_SHAPE = {"image_size": 28, "channels": 1, "width": 32}

DIGITS = register_recipe(
    Recipe(
        name="digits",
        summary="small DCGAN on the 5,000 embedded MNIST digits; minutes on a CPU",
        generator=ModelSpec("dcgan_generator", {**_SHAPE, "negative_slope": 0.2}),
        discriminator=ModelSpec("dcgan_discriminator", _SHAPE),
        image_size=28,
        channels=1,
        train=TrainConfig(
            steps=4000,
            batch_size=64,
            lr_g=5e-4,
            lr_d=5e-4,
            ema_decay=0.995,
            sample_every=250,
            checkpoint_every=500,
        ),
    )
)
