"""DCGANs trained by other objectives: least squares, and Wasserstein with a penalty."""

from fastgan.engine.config import TrainConfig
from fastgan.recipes.recipe import ModelSpec, Recipe, register_recipe

_SHAPE = {"image_size": 28, "channels": 1, "width": 32}
_GENERATOR = ModelSpec("dcgan_generator", {**_SHAPE, "negative_slope": 0.2})

LSGAN = register_recipe(
    Recipe(
        name="lsgan",
        summary="least-squares GAN on digits, 28x28",
        generator=_GENERATOR,
        discriminator=ModelSpec("dcgan_discriminator", _SHAPE),
        image_size=28,
        channels=1,
        train=TrainConfig(steps=4000, loss="lsgan", lr_g=5e-4, lr_d=5e-4, ema_decay=0.995),
    )
)

WGAN_GP = register_recipe(
    Recipe(
        name="wgan-gp",
        summary="Wasserstein GAN with gradient penalty, five critic updates a step, on digits",
        generator=_GENERATOR,
        # A norm would couple the images that the penalty looks at one by one.
        discriminator=ModelSpec("dcgan_discriminator", {**_SHAPE, "norm": "none"}),
        image_size=28,
        channels=1,
        train=TrainConfig(
            steps=2000,
            loss="wasserstein",
            regularizer="wgan_gp",
            discriminator_steps=5,
            lr_g=1e-4,
            lr_d=1e-4,
            beta1=0.0,
            beta2=0.9,
            ema_decay=0.995,
        ),
    )
)
