"""GANs that draw the digit that is asked for."""

from fastgan.engine.config import TrainConfig
from fastgan.recipes.recipe import ModelSpec, Recipe, register_recipe

_SHAPE = {"image_size": 28, "channels": 1, "width": 32}
_CLASSES = {**_SHAPE, "num_classes": 10}
_TRAIN = TrainConfig(steps=4000, conditional=True, lr_g=5e-4, lr_d=5e-4, ema_decay=0.995)

CDCGAN = register_recipe(
    Recipe(
        name="cdcgan",
        summary="DCGAN with labels in both networks, on digits",
        generator=ModelSpec("cdcgan_generator", {**_CLASSES, "negative_slope": 0.2}),
        discriminator=ModelSpec("cdcgan_discriminator", _CLASSES),
        image_size=28,
        channels=1,
        train=_TRAIN,
    )
)

ACGAN = register_recipe(
    Recipe(
        name="acgan",
        summary="DCGAN whose discriminator names the class as well, on digits",
        generator=ModelSpec("cdcgan_generator", {**_CLASSES, "negative_slope": 0.2}),
        discriminator=ModelSpec("acgan_discriminator", _CLASSES),
        image_size=28,
        channels=1,
        train=_TRAIN,
    )
)
