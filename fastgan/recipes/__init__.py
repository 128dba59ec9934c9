"""Named runs: models, data and hyper-parameters, each a small typed configuration."""

from fastgan.recipes import (
    autoencoders,
    conditional,
    dcgan,
    digits,
    losses,
    mlp_gan,
    resnet,
    tile_gan,
    translation,
    video_gan,
    volume_gan,
)
from fastgan.recipes.config_file import load_recipe
from fastgan.recipes.planning import dry_run
from fastgan.recipes.recipe import (
    DataConfig,
    LevelConfig,
    ModelSpec,
    Recipe,
    StartConfig,
    VolumeConfig,
    get_recipe,
    list_recipes,
    register_recipe,
)
from fastgan.recipes.run import as_trained, build_models, build_trainer, override, run_folder, train

__all__ = [
    "DataConfig",
    "LevelConfig",
    "ModelSpec",
    "Recipe",
    "StartConfig",
    "VolumeConfig",
    "as_trained",
    "autoencoders",
    "build_models",
    "build_trainer",
    "conditional",
    "dcgan",
    "digits",
    "dry_run",
    "get_recipe",
    "list_recipes",
    "load_recipe",
    "losses",
    "mlp_gan",
    "override",
    "register_recipe",
    "resnet",
    "run_folder",
    "tile_gan",
    "train",
    "translation",
    "video_gan",
    "volume_gan",
]
