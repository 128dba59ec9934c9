"""Networks from images to images."""

from fastgan.engine.config import TrainConfig
from fastgan.engine.objectives import CycleObjective, StyleObjective, TranslationObjective
from fastgan.recipes.recipe import ModelSpec, Recipe, UnpairedConfig, register_recipe

PIX2PIX = register_recipe(
    Recipe(
        name="pix2pix",
        summary="images from their luma or edges: U-Net and PatchGAN; give it images with --data",
        generator=ModelSpec(
            "unet", {"channels": 3, "condition_channels": 1, "width": 16, "depth": 4}
        ),
        discriminator=ModelSpec(
            "patch_discriminator",
            {"channels": 3, "condition_channels": 1, "width": 16, "layers": 2},
        ),
        image_size=64,
        channels=3,
        wants_images=True,
        train=TrainConfig(steps=20_000, batch_size=16, sample_every=1000, checkpoint_every=1000),
        objective=TranslationObjective(),
    )
)

CYCLEGAN = register_recipe(
    Recipe(
        name="cyclegan",
        summary="images of two sets without pairs, each as one of the other; --data A --data-b B",
        generator=ModelSpec("cycle_generator", {"channels": 3, "width": 16, "blocks": 3}),
        discriminator=ModelSpec("cycle_discriminator", {"channels": 3, "width": 16, "layers": 2}),
        image_size=64,
        channels=6,
        data=UnpairedConfig(),
        train=TrainConfig(
            steps=20_000, batch_size=4, loss="lsgan", sample_every=1000, checkpoint_every=1000
        ),
        objective=CycleObjective(),
    )
)

STYLE = register_recipe(
    Recipe(
        name="style",
        summary="images in the style of one picture (--style FILE); give it images with --data",
        generator=ModelSpec(
            "resnet_translator",
            {"channels": 3, "condition_channels": 3, "width": 16, "blocks": 3},
        ),
        discriminator=None,
        image_size=64,
        channels=3,
        wants_images=True,
        train=TrainConfig(
            steps=20_000,
            batch_size=4,
            lr_g=1e-3,
            beta1=0.9,
            ema_decay=0.99,
            sample_every=1000,
            checkpoint_every=1000,
        ),
        objective=StyleObjective(),
    )
)
