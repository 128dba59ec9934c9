"""The fully connected GAN."""

from fastgan.engine.config import TrainConfig
from fastgan.recipes.recipe import ModelSpec, Recipe, register_recipe

MLP_GAN = register_recipe(
    Recipe(
        name="mlp-gan",
        summary="100 -> 128 -> 128 -> 784 generator, 784 -> 128 -> 1 discriminator, on digits",
        generator=ModelSpec("mlp_generator"),
        discriminator=ModelSpec("mlp_discriminator"),
        image_size=28,
        channels=1,
        train=TrainConfig(steps=10_000, batch_size=64, sample_every=1000, checkpoint_every=2000),
    )
)
