"""The first run: handwritten digits in a few minutes on a laptop CPU."""

from fastgan.engine.config import TrainConfig
from fastgan.recipes._recipe import ModelSpec, Recipe, register_recipe

DIGITS = register_recipe(
    Recipe(
        name="digits",
        summary="small DCGAN on the 5,000 embedded MNIST digits; minutes on a CPU",
        generator=ModelSpec("dcgan_generator", {"image_size": 28, "channels": 1, "width": 32}),
        discriminator=ModelSpec(
            "dcgan_discriminator", {"image_size": 28, "channels": 1, "width": 32}
        ),
        image_size=28,
        channels=1,
        train=TrainConfig(steps=2000, batch_size=64, sample_every=250, checkpoint_every=500),
    )
)
