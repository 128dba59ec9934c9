"""Networks that encode as well as draw: autoencoder, variational autoencoder, VAE-GAN."""

from fastgan.engine.config import TrainConfig
from fastgan.engine.objectives import AutoencoderObjective, VAEGANObjective, VAEObjective
from fastgan.recipes.recipe import ModelSpec, Recipe, register_recipe

_SHAPE = {"latent_dim": 32, "image_size": 28, "channels": 1, "width": 32}

AUTOENCODER = register_recipe(
    Recipe(
        name="autoencoder",
        summary="digits through 32 numbers and back",
        generator=ModelSpec("autoencoder", _SHAPE),
        discriminator=None,
        image_size=28,
        channels=1,
        train=TrainConfig(steps=4000, lr_g=1e-3, beta1=0.9, ema_decay=0.995),
        objective=AutoencoderObjective(),
    )
)

VAE = register_recipe(
    Recipe(
        name="vae",
        summary="variational autoencoder of black-and-white digits, KL warm-up",
        generator=ModelSpec("vae", _SHAPE),
        discriminator=None,
        image_size=28,
        channels=1,
        train=TrainConfig(
            steps=8000,
            batch_size=128,
            lr_g=1e-3,
            beta1=0.9,
            ema_decay=0.995,
        ),
        objective=VAEObjective(kl_warmup=500, binarize=True),
    )
)

VAE_GAN = register_recipe(
    Recipe(
        name="vae-gan",
        summary="variational autoencoder whose reconstructions are compared by a discriminator",
        generator=ModelSpec("vae", {**_SHAPE, "likelihood": "gaussian"}),
        discriminator=ModelSpec(
            "dcgan_discriminator", {"image_size": 28, "channels": 1, "width": 32}
        ),
        image_size=28,
        channels=1,
        train=TrainConfig(steps=4000, lr_g=3e-4, lr_d=3e-4, ema_decay=0.995),
        objective=VAEGANObjective(kl_warmup=500),
    )
)
