"""Images of more pixels, and images without their holes."""

from fastgan.engine.config import TrainConfig
from fastgan.engine.objectives import TranslationObjective
from fastgan.recipes.recipe import ModelSpec, Recipe, register_recipe

_SRRESNET = ModelSpec("srresnet", {"channels": 3, "width": 32, "blocks": 6, "scale": 4})

SUPER_RESOLUTION = register_recipe(
    Recipe(
        name="super-resolution",
        summary="images of four times the sides, by the mean error; give it images with --data",
        generator=_SRRESNET,
        discriminator=None,
        image_size=64,
        channels=3,
        wants_images=True,
        train=TrainConfig(
            steps=20_000, batch_size=16, lr_g=5e-4, beta1=0.9, sample_every=1000, flip=True
        ),
        objective=TranslationObjective(
            condition="lower-4", content_weight=1.0, adversarial_weight=0.0
        ),
    )
)

SRGAN = register_recipe(
    Recipe(
        name="srgan",
        summary="the same against a discriminator; start it from super-resolution (--init-from)",
        generator=_SRRESNET,
        discriminator=ModelSpec(
            "patch_discriminator", {"channels": 3, "width": 16, "layers": 3, "norm": "spectral"}
        ),
        image_size=64,
        channels=3,
        wants_images=True,
        train=TrainConfig(
            steps=20_000,
            batch_size=16,
            loss="relativistic_average",
            lr_g=1e-4,
            lr_d=1e-4,
            beta1=0.9,
            sample_every=1000,
            flip=True,
        ),
        objective=TranslationObjective(
            condition="lower-4", content_weight=1.0, feature_weight=0.1, adversarial_weight=5e-3
        ),
    )
)

INPAINTING = register_recipe(
    Recipe(
        name="inpainting",
        summary="holes filled in: U-Net, two discriminators; give it images with --data",
        generator=ModelSpec("inpainter", {"channels": 3, "width": 16, "depth": 4}),
        discriminator=ModelSpec(
            "inpainting_discriminator",
            {"channels": 3, "width": 16, "layers": 2, "norm": "spectral"},
        ),
        image_size=64,
        channels=3,
        wants_images=True,
        train=TrainConfig(steps=20_000, batch_size=16, loss="hinge", sample_every=1000),
        objective=TranslationObjective(condition="box", adversarial_weight=0.2),
    )
)
