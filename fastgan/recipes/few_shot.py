"""A GAN for a hundred images."""

from fastgan.engine.config import TrainConfig
from fastgan.engine.objectives import GANObjective
from fastgan.recipes.recipe import ModelSpec, Recipe, register_recipe

_SHAPE = {"image_size": 128, "channels": 3, "width": 16, "max_width": 128}

FEW_SHOT = register_recipe(
    Recipe(
        name="few-shot",
        summary="light-weight GAN for a hundred images, 128x128 RGB; give it images with --data",
        generator=ModelSpec("few_shot_generator", {"latent_dim": 128, **_SHAPE}),
        discriminator=ModelSpec("few_shot_discriminator", _SHAPE),
        image_size=128,
        channels=3,
        wants_images=True,
        train=TrainConfig(
            steps=20_000,
            batch_size=8,
            loss="hinge",
            augment="diffaugment",
            flip=True,
            sample_every=1000,
            checkpoint_every=1000,
        ),
        objective=GANObjective(reconstruction_weight=1.0),
    )
)
