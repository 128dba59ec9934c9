"""Networks from images to images."""

from fastgan.engine.config import TrainConfig
from fastgan.engine.objectives import TranslationObjective
from fastgan.recipes.recipe import ModelSpec, Recipe, register_recipe

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
